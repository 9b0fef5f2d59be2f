import os
from pathlib import Path

from serving.client import Visage

with Visage("http://127.0.0.1:8000", key=os.environ["VISAGE_KEY"]) as visage:
    drawn = visage.generate(identity=["me.jpg"], seed=7, n=2)
    Path("drawn.png").write_bytes(drawn.pictures[0])
    Path("again.png").write_bytes(visage.generate(identity=["me.jpg"], seed=8).pictures[0])
    assert visage.verify("me.jpg", "me.jpg")["same_person"]
