<?php
// Rank the classes of a photo with skincell: php predict.php photo.jpg [address]

function predict(string $photo, string $address = 'http://127.0.0.1:3000', array $options = []): array
{
    $request = curl_init($address . '/predict?' . http_build_query($options));
    curl_setopt_array($request, [
        CURLOPT_POSTFIELDS => ['image' => new CURLFile($photo)],
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_TIMEOUT => 60,
    ]);
    $body = curl_exec($request);
    if ($body === false) {
        throw new RuntimeException(curl_error($request));
    }
    $answer = json_decode($body, true, 512, JSON_THROW_ON_ERROR);
    if (curl_getinfo($request, CURLINFO_RESPONSE_CODE) !== 200) {
        throw new RuntimeException($answer['detail']); // RFC 9457: what is wrong, and what to do next
    }
    return $answer;
}

foreach (predict($argv[1], $argv[2] ?? 'http://127.0.0.1:3000', ['top_k' => 3])['results'] as $result) {
    printf("%6.2f %%  %s\n", $result['probability'], $result['class']);
}
