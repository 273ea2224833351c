"""Uses a server of anyid-rt with OpenAI's own client for Python, as a user of theirs would.

    pip install openai
    anyid-rt serve --listen 127.0.0.1:8787 &
    python tests/reference/openai_client.py http://127.0.0.1:8787/v1 [TOKEN]

The built-in model is expected. Every step is checked, and the script says so at its end.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import openai
from openai.types import Video

CHARACTERS = Path(__file__).parents[2] / "examples" / "characters" / "first"
SMALL = {"steps": 2, "frames": 5, "guidance": 1}


def refused(kind, code, call):
    """Asserts that `call` raises `kind` with our code."""
    try:
        call()
    except kind as error:
        assert error.code == code, (error.code, error.body)
        return error
    raise AssertionError(f"{code} was expected")


def main(address, token):
    # Theirs is no longer offered by OpenAI, of which every call warns.
    warnings.simplefilter("ignore", DeprecationWarning)
    client = openai.OpenAI(base_url=address, api_key=token, max_retries=0)
    videos = client.videos
    models = [model.id for model in client.models.list()]
    assert models == ["built-in"], models

    # One reference, and fields of ours.
    with open(CHARACTERS / "portrait.png", "rb") as portrait:
        first = videos.create_and_poll(
            prompt="A close-up shot. The face is smiling.", input_reference=portrait,
            size="48x48", extra_body={**SMALL, "seed": 7})
    assert first.status == "completed" and first.progress == 100 and first.error is None, first
    assert first.size == "48x48" and first.model_extra["seed"] == 7
    assert first.model_extra["references"] == 1

    # None at all, where theirs sends a form all the same.
    second = videos.create(prompt="The head turns left.", model="built-in", extra_body=SMALL)
    assert second.status in ("queued", "in_progress") and second.object == "video", second
    assert videos.poll(second.id, poll_interval_ms=50).status == "completed"

    # Several: theirs takes one, its own `post` takes what there is.
    names = ["portrait.png", "face.png", "clip.gif"]
    files = [("input_reference", (name, (CHARACTERS / name).read_bytes())) for name in names]
    third = client.post(
        "/videos", cast_to=Video, files=files,
        body={"prompt": "The head faces forward.", "seconds": "0.17", **{"steps": 2}},
        options={"headers": {"Content-Type": "multipart/form-data"}})
    assert third.model_extra["references"] == 3 and third.seconds == "0.17", third
    assert videos.poll(third.id, poll_interval_ms=50).status == "completed"

    # The file.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.mp4"
        videos.download_content(first.id).write_to_file(path)
        assert path.read_bytes()[4:8] == b"ftyp"
    with videos.with_streaming_response.download_content(first.id) as answer:
        assert answer.headers["content-type"] == "video/mp4"
        assert sum(map(len, answer.iter_bytes())) == int(answer.headers["content-length"])

    # Lists go on by themselves, page by page.
    ours = [third.id, second.id, first.id]
    assert [video.id for video in videos.list(limit=1)][:3] == ours
    assert [video.id for video in videos.list(order="asc", limit=100)][-3:] == ours[::-1]

    # Cancelling is ours alone.
    long = videos.create(prompt="long", size="192x192", extra_body={"steps": 200, "frames": 41})
    given_up = client.post(f"/videos/{long.id}/cancel", cast_to=Video)
    assert given_up.status == "cancelled", given_up

    # Errors are theirs, with our codes.
    refused(openai.BadRequestError, "E1412", lambda: videos.create(prompt="x", model="sora-2"))
    error = refused(openai.BadRequestError, "E0901",
                    lambda: videos.create(prompt="x", size="47x47"))
    assert error.param == "size", error.param
    refused(openai.BadRequestError, "E0804",
            lambda: videos.create(prompt="x", input_reference=b"no picture"))
    refused(openai.NotFoundError, "E1407", lambda: videos.retrieve("video_none"))
    refused(openai.NotFoundError, "E1406", lambda: videos.remix(first.id, prompt="x"))
    refused(openai.ConflictError, "E1408", lambda: videos.download_content(long.id))

    for video in [first, second, third, long]:
        gone = videos.delete(video.id)
        assert gone.deleted and gone.id == video.id, gone
    refused(openai.NotFoundError, "E1407", lambda: videos.retrieve(first.id))
    print(f"all is well with openai {openai.__version__}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "none")
