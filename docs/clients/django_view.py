"""A Django view that hands an uploaded photo on to skincell: no model and no TensorFlow in the web process.

    path("predict/", predict)

It takes what the origin app takes, a file in the field `image` or a camera's data URL in the field of the
same name, and answers with the same members: results[].class, results[].probability, heatmap_base64.
"""

import os

import requests
from django.http import JsonResponse
from django.views.decorators.http import require_POST

SKINCELL = os.environ.get("SKINCELL_URL", "http://127.0.0.1:3000")


@require_POST
def predict(request):
    upload = request.FILES.get("image") or request.POST.get("image")
    if not upload:
        return JsonResponse({"error": "Choose a photo first."}, status=400)
    # A text field has no file name: so the service knows a data URL from a file.
    image = upload if hasattr(upload, "read") else (None, upload)
    try:
        answer = requests.post(f"{SKINCELL}/predict", files={"image": image}, timeout=30)
    except requests.RequestException:
        return JsonResponse({"error": "The classifier cannot be reached."}, status=502)
    if not answer.ok:
        # RFC 9457: what is wrong, and what to do next.
        return JsonResponse({"error": answer.json()["detail"]}, status=answer.status_code)
    return JsonResponse(answer.json())
