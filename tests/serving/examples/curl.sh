curl --fail-with-body --silent http://127.0.0.1:8000/v1/images/generations \
  --header "Authorization: Bearer $VISAGE_KEY" \
  --form identity=@me.jpg \
  --form seed=7 \
  --form output_format=jpeg |
  python3 -c 'import base64, json, sys
answer = json.load(sys.stdin)
open("drawn.jpg", "wb").write(base64.b64decode(answer["data"][0]["b64_json"]))'
