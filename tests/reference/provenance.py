"""Statements of origin that `anyid-rt` signs, read by c2pa-python (the library behind c2patool).

    python provenance.py ANYID_RT      # a program built with --features provenance; pip install c2pa-python==0.38.1

Makes small videos with the built-in model, and asserts that the library finds a valid statement
signed by somebody whom nobody vouches for, with the actions, the ingredients and the soft binding that
docs/safety.md describes; and that it finds no valid one once a byte has changed.
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import c2pa

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "examples/characters/first/portrait.png"


def read(path):
    with c2pa.Reader(str(path)) as reader:
        return json.loads(reader.json())


def codes(found, kind):
    results = found.get("validation_results", {}).get("activeManifest", {})
    return [entry["code"] for entry in results.get(kind, [])]


def check(program, folder, name):
    path = folder / name
    words = "generate --size 256x256 --frames 1 --steps 1 --guidance 1 --prompt x --consent off"
    subprocess.run(
        [program, *words.split(), "--ref", REFERENCE, "-o", path],
        check=True,
        env={"XDG_STATE_HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    found = read(path)
    failures = set(codes(found, "failure"))
    assert failures <= {"signingCredential.untrusted"}, failures
    assert "claimSignature.validated" in codes(found, "success"), found["validation_results"]
    manifest = found["manifests"][found["active_manifest"]]
    assertions = {entry["label"]: entry["data"] for entry in manifest["assertions"]}
    actions = assertions["c2pa.actions.v2"]["actions"]
    assert [action["action"] for action in actions] == ["c2pa.created", "c2pa.watermarked.bound"]
    assert actions[0]["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    hash = hashlib.sha256(REFERENCE.read_bytes()).hexdigest()
    [ingredient] = manifest["ingredients"]
    assert ingredient["relationship"] == "inputTo" and ingredient["description"] == f"sha256:{hash}"
    assert "thumbnail" not in ingredient and "thumbnail" not in manifest
    binding = assertions["c2pa.soft-binding"]
    recipe = json.loads((folder / f"{name}.recipe.json").read_text())
    mark = recipe["safeguards"]["watermark"]["id"]
    assert (binding["alg"], binding["blocks"][0]["value"]) == ("org.anyid-rt.tile-ss.1", mark), binding
    assert assertions["org.anyid-rt.policy"]["consent"] == "off"
    assert "prompt" not in assertions["org.anyid-rt.recipe"]
    print(f"{name}: {found.get('validation_state')}, {manifest['signature_info']['alg']}, {sorted(failures)}")

    bytes = bytearray(path.read_bytes())
    bytes[len(bytes) - 40] ^= 1
    other = folder / f"changed-{name}"
    other.write_bytes(bytes)
    changed = read(other)
    assert changed.get("validation_state") == "Invalid", changed.get("validation_state")
    print(f"{name}, one bit changed: {changed['validation_state']}, {sorted(set(codes(changed, 'failure')))}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        for name in ["a.mp4", "b.gif"]:
            check(sys.argv[1], pathlib.Path(folder), name)


if __name__ == "__main__":
    main()
