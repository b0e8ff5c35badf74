from spin_sdk.http import Handler, Request, Response
from wit_world.imports import graph, tensor

marker = "nothing"
leaked = []


def infer(pixels: bytes) -> bytes:
    """The logits of one photo, from its prepared pixels: 1×3×224×224 numbers of 32 bits, little-endian."""
    context = graph.load_by_name("skin").init_execution_context()
    image = tensor.Tensor([1, 3, 224, 224], tensor.TensorType.FP32, pixels)
    outputs = dict(context.compute([("image", image)]))
    return outputs["logits"].data()


class HttpHandler(Handler):
    async def handle_request(self, request: Request) -> Response:
        global marker
        path, _, query = request.uri.partition("?")
        match path:
            case "/python/infer":
                return Response(200, {}, infer(request.body))
            case "/python/marker":
                before, marker = marker, query
                return Response(200, {}, before.encode())
            case "/python/leak":
                leaked.append(b"x" * (1 << 20))
                return Response(200, {}, str(len(leaked)).encode())
            case _:
                return Response(200, {"content-type": "text/plain"}, b"Hello from Python!")
