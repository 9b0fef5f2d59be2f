import base64
import os
from pathlib import Path

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key=os.environ["VISAGE_KEY"])
photo = base64.b64encode(Path("me.jpg").read_bytes()).decode()
answer = client.images.generate(prompt="", extra_body={"identity": [photo], "seed": 7})
Path("drawn.png").write_bytes(base64.b64decode(answer.data[0].b64_json))
