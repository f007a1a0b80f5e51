"""The example of a Ray cluster on Kubernetes: what KubeRay asks of a `RayCluster`.

The types and required fields are those of its schema (ray.io/v1, August 2026); the whole schema is
larger than this library.
"""

import re
from pathlib import Path

import yaml

DOC = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE])?")
"""Of Kubernetes."""


def _manifest():
    (text,) = re.findall(r"```yaml\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL)
    return yaml.safe_load(text)


def _check_group(group):
    parameters = group["rayStartParams"]
    assert all(type(value) is str for value in parameters.values()), parameters
    containers = group["template"]["spec"]["containers"]
    for container in containers:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", container["name"])
        assert container["image"]
        for amount in container["resources"]["limits"].values():
            assert QUANTITY.fullmatch(str(amount)), amount
    assert len(containers) == 1


def test_the_manifest_is_one_of_kuberay():
    manifest = _manifest()
    assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    spec = manifest["spec"]
    assert spec.keys() == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert type(spec["rayVersion"]) is str
    head = spec["headGroupSpec"]
    assert head.keys() == {"rayStartParams", "template"}
    _check_group(head)
    for group in spec["workerGroupSpecs"]:
        assert group.keys() - {"rayStartParams", "template"} == {
            "groupName",
            "replicas",
            "minReplicas",
            "maxReplicas",
        }
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        _check_group(group)
