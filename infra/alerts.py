"""The alerts for Kubernetes: ``python -m infra.alerts`` writes infra/k8s/monitors/rules.yaml.

Their only source is infra/prometheus/rules.yml, which a Prometheus without an operator reads as it
is. The file is checked in, so that kubectl needs nothing of ours; a test compares it with this.
"""

from pathlib import Path
from textwrap import indent

SOURCE = Path(__file__).parent / "prometheus" / "rules.yml"
TARGET = Path(__file__).parent / "k8s" / "monitors" / "rules.yaml"
_HEAD = """\
# Written by `python -m infra.alerts` from infra/prometheus/rules.yml: change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: visage
spec:
"""


def render() -> str:
    """Return the rules as the Prometheus operator's PrometheusRule."""
    _, groups, rest = SOURCE.read_text().partition("groups:\n")
    return _HEAD + indent(groups + rest, "  ")


def write(path: Path = TARGET) -> None:
    """Write them to ``path``."""
    path.write_text(render())


if __name__ == "__main__":
    write()
