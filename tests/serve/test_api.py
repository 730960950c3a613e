from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from cnncodes import Classifier
from cnncodes.serve.limits import Limits
from tests.helpers import encode_image, error_of
from tests.serve.servers import Server, form_of, running

TOKEN = "a-token-of-the-test"


def error_in(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    message = response.json()["error"]
    assert "\n" not in message
    return message


def test_predictions_are_those_of_the_classifier(
    server: Server, app: Path, images: list[Path]
) -> None:
    contents = [path.read_bytes() for path in images]
    response = server.client.post("/api/predict?top=10", files=form_of(*contents))
    assert response.status_code == 200
    classifier = Classifier(app)
    for result, path in zip(response.json()["results"], images, strict=True):
        wanted = classifier.predict(path)
        assert result["problem"] == ""
        assert [each["label"] for each in result["predictions"]] == [each.label for each in wanted]
        np.testing.assert_allclose(
            [each["probability"] for each in result["predictions"]],
            [each.probability for each in wanted],
            atol=1e-5,
        )


def test_number_of_classes_can_be_chosen(server: Server, images: list[Path]) -> None:
    form = form_of(images[0].read_bytes())
    for query, n in (("", 5), ("?top=1", 1), ("?top=999999999", 10)):
        (result,) = server.client.post(f"/api/predict{query}", files=form).json()["results"]
        assert len(result["predictions"]) == n
    for wrong in ("0", "-1", "x", "9999999999", "²"):
        answer = server.client.post("/api/predict", params={"top": wrong}, files=form)
        assert "top" in error_in(answer, 400)


def test_unusable_image_leaves_the_others_alone(server: Server, images: list[Path]) -> None:
    content = images[0].read_bytes()
    response = server.client.post("/api/predict", files=form_of(content, content[:200], content))
    assert response.status_code == 200
    first, second, third = response.json()["results"]
    assert first == third
    assert second["predictions"] == []
    assert "damaged" in second["problem"]


def test_explanation_is_that_of_the_classifier(
    server: Server, app: Path, images: list[Path]
) -> None:
    classifier = Classifier(app)
    for label in (None, "7"):
        answer = server.client.post(
            "/api/explain",
            files=form_of(images[0].read_bytes()),
            data={} if label is None else {"label": label},
        ).json()
        wanted = classifier.explain(images[0], label)
        assert answer["label"] == wanted.label
        contributions = np.array(answer["contributions"], np.float32)
        np.testing.assert_allclose(contributions, wanted.contributions, rtol=1e-3, atol=1e-3)
        assert contributions.sum() + answer["bias"] == pytest.approx(answer["logit"], rel=1e-4)


def test_explanation_that_is_impossible_is_refused(server: Server, images: list[Path]) -> None:
    content = images[0].read_bytes()
    for files, fields, status, message in (
        (form_of(content), {"label": "a horse"}, 422, "label must be one of the classes"),
        (form_of(content[:100]), {}, 422, "damaged"),
        (form_of(content, content), {}, 400, "Too many files"),
        (form_of(content), {"lable": "1"}, 400, "unknown field 'lable'"),
    ):
        answer = server.client.post("/api/explain", files=files, data=fields)
        assert message in error_in(answer, status)


def test_document_describes_the_routes(server: Server) -> None:
    document = server.client.get("/api/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in ("GET", "POST", "PUT", "DELETE"):
            answer = server.client.request(method, path)
            is_there = answer.status_code not in (404, 405)
            assert is_there == (method.lower() in operations), (method, path)
    assert "/api/nothing" not in document["paths"]
    assert error_in(server.client.get("/api/nothing"), 404) == "Not Found"
    text = json.dumps(document)
    for pointer in re.findall(r'"\$ref": "#/([^"]+)"', text):
        part = document
        for key in pointer.split("/"):
            part = part[key]


def test_answers_are_as_the_document_has_them(server: Server, images: list[Path]) -> None:
    document = server.client.get("/api/openapi.json").json()
    schemas = document["components"]["schemas"]
    form = form_of(images[0].read_bytes())
    (result,) = server.client.post("/api/predict", files=form).json()["results"]
    for schema, answer in (
        ("Result", result),
        ("Prediction", result["predictions"][0]),
        ("Explanation", server.client.post("/api/explain", files=form).json()),
        ("Version", server.client.get("/api/version").json()),
        ("Problem", server.client.get("/absent").json()),
    ):
        # This app has no score of none of these, and an image has one label.
        optional = {"Result": {"unknown", "is_known"}, "Prediction": {"present"}}
        assert set(answer) == set(schemas[schema]["required"])
        assert set(answer) == set(schemas[schema]["properties"]) - optional.get(schema, set())


def test_version_describes_the_app(server: Server, app: Path) -> None:
    answer = server.client.get("/api/version").json()
    assert answer["app"] == app.name
    assert answer["labels"] == list(Classifier(app).labels)


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header announces very many pixels."""
    small = encode_image(Image.new("L", (1, 1)), "PNG")
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + small[24:29]
    return small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty file"),
        (b"GIF89a", "damaged"),
        (b"<svg onload=alert(1)>", "not a JPEG"),
        (b"PK\x03\x04" + bytes(1000), "not a JPEG"),
        (bytes(3_000_000), "not a JPEG"),
        (_bomb(50_000, 50_000), "is more than 100 megapixels"),
        (_bomb(2**31 - 1, 2**31 - 1), "is more than 100 megapixels"),
        (_bomb(0, 0), "damaged"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_file_that_is_no_usable_image_is_refused(
    server: Server, content: bytes, problem: str
) -> None:
    answer = server.client.post("/api/predict", files=form_of(content))
    assert answer.status_code == 422
    (result,) = answer.json()["results"]
    assert problem in result["problem"]
    assert server.is_alive()


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "C:\\x.png", "a\0b.png", "x" * 3000 + ".png", "é日.png"],
)
def test_name_of_a_file_is_returned_and_never_a_path(
    server: Server, images: list[Path], name: str
) -> None:
    answer = server.client.post("/api/predict", files=form_of(images[0].read_bytes(), name=name))
    (result,) = answer.json()["results"]
    assert result["predictions"]
    # python-multipart drops the folders of a Windows path, and httpx encodes control characters.
    assert result["name"] == name.rpartition("\\")[2].replace("\0", "%00")


def _part(name: str, rest: str = "", value: str = "x") -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n{value}\r\n'


FORM = "multipart/form-data; boundary=b"
MANY_FIELDS = "".join(_part(f"field{i}") for i in range(500))
NOT_FORMS = {
    "text": ("x", "text/plain", 415, "multipart/form-data"),
    "JSON": ("{}", "application/json", 415, "multipart/form-data"),
    "no boundary": ("x", "multipart/form-data", 400, "boundary"),
    "no parts": ("no form", FORM, 400, "multipart"),
    "empty": ("--b--\r\n", FORM, 400, ""),
    "truncated": (_part("file", "; filename=a")[:-9], FORM, 400, ""),
    "other name": (_part("image", "; filename=a") + "--b--", FORM, 400, "'file'"),
    "text as file": (_part("file") + "--b--", FORM, 400, "unknown field 'file'"),
    "500 fields": (MANY_FIELDS + "--b--", FORM, 400, "fields"),
    "500 files": (_part("file", "; filename=a") * 500 + "--b--", FORM, 400, "files"),
    "long name": (_part("x" * 100_000) + "--b--", FORM, 400, ""),
    "long field": (_part("f", value="x" * 2_000_000) + "--b--", FORM, 400, "maximum size"),
}


@pytest.mark.parametrize("case", NOT_FORMS)
def test_request_that_is_no_form_of_images_is_refused(server: Server, case: str) -> None:
    body, kind, status, message = NOT_FORMS[case]
    answer = server.client.post("/api/predict", content=body, headers={"Content-Type": kind})
    assert message in error_in(answer, status)
    assert server.is_alive()


def test_large_files_stay_in_memory(server: Server) -> None:
    """The server may not write to any file; starlette would, from a megabyte on."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 1500, 3), dtype=np.uint8)
    content = encode_image(Image.fromarray(noise), "PNG")
    assert len(content) > 5_000_000
    answer = server.client.post("/api/predict", files=form_of(content, content))
    assert [each["problem"] for each in answer.json()["results"]] == ["", ""]


def test_body_that_is_too_large_is_refused(server: Server) -> None:
    size = Limits().max_body + 1
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with server.connect() as connection:  # refused before any of it is sent
        lines = (
            "POST /api/predict HTTP/1.1",
            f"Host: {server.address[0]}",
            f"Content-Length: {size}",
        )
        lines += tuple(f"{name}: {value}" for name, value in headers.items())
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")

    def parts():
        yield _part("file", "; filename=a.png").encode()
        for _ in range(70):
            yield bytes(1_000_000)

    answer = server.client.post("/api/predict", content=parts(), headers=headers)
    assert "64 MB" in error_in(answer, 413)
    assert server.is_alive()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "elsewhere.org"}, 421),
        ({"Host": "127.0.0.1.elsewhere.org"}, 421),
        ({"Host": "192.168.0.1"}, 421),
        ({"Host": "[::1"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "localhost", "Origin": "http://elsewhere.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://127.0.0.1"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "LOCALHOST:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({}, 200),
    ],
)
def test_page_elsewhere_cannot_use_the_server(
    server: Server, images: list[Path], headers: dict[str, str], status: int
) -> None:
    form = form_of(images[0].read_bytes())
    answer = server.client.post("/api/predict", files=form, headers=headers)
    assert answer.status_code == status, answer.text
    if status == 421:
        for path in ("/", "/api/version"):
            assert server.client.get(path, headers=headers).status_code == 421


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/version", "/absent", "/api/predict"])
def test_answers_have_headers_that_keep_browsers_strict(server: Server, path: str) -> None:
    headers = server.client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


@pytest.mark.parametrize(
    "path", ["/../api.py", "/..%2fapi.py", "/%2e%2e/server.py", "/....//api.py", "//etc/passwd"]
)
def test_page_has_its_own_files_only(server: Server, path: str) -> None:
    with server.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 404 ")


def test_other_host_wants_a_token(app: Path, images: list[Path]) -> None:
    form = form_of(images[0].read_bytes())
    with running(app, host="0.0.0.0", token=TOKEN) as server:
        assert server.url.endswith(f"/?token={TOKEN}")
        client = server.client
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {TOKEN}"}):
            assert "token" in error_in(client.get("/api/health", headers=headers), 401)
            assert "token" in error_in(
                client.post("/api/predict", files=form, headers=headers), 401
            )
        assert client.get("/", params={"token": "another"}).status_code == 401
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/api/predict", files=form, headers=bearer).status_code == 200
        for host, status in (("elsewhere.org", 421), ("192.168.0.1", 200), ("[fe80::1]:80", 200)):
            answer = client.get("/api/health", headers={**bearer, "Host": host})
            assert answer.status_code == status

        opened = client.get("/", params={"token": TOKEN})
        assert (opened.status_code, opened.headers["location"]) == (303, "/")
        assert "HttpOnly" in opened.headers["set-cookie"]
        assert client.get("/").status_code == 200
        assert client.post("/api/predict", files=form).status_code == 200


def test_token_is_made_where_one_is_needed(app: Path) -> None:
    with running(app, host="0.0.0.0") as server:
        token = httpx.URL(server.url).params["token"]
        assert len(token) >= 32
    with running(app, host="localhost") as server:
        assert "token" not in server.url


def test_options_that_cannot_be_used_are_reported(server: Server, app: Path) -> None:
    for options, message in (
        (("--port", server.address[1]), "choose another, or 0"),
        (("--host", "nowhere.invalid"), "has no address"),
        (("--host", "192.0.2.1", "--token", TOKEN), "cannot be used"),
        (("--token", "short"), "token must be 16 to 256"),
    ):
        assert message in error_of("serve", app, *options, "--no-open")
