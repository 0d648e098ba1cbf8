"""Libraries at `hf://`, through huggingface_hub with a local server that answers as the hub does, and without one."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import torch
from huggingface_hub import HfFileSystem, ModelCard, constants
from huggingface_hub.utils import close_session

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.library.card import Result
from deltacompose.library.library import Library

REPO = "someone/deltas"


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone("bert")


def delta_of(backbone, task="mood"):
    expression = dc.parse("lora(rank=2)")
    about = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    record = {"task": task, "seed": 0, "metric": "accuracy", "dev": 0.75}
    return Delta(expression, dc.init_weights(backbone, expression, 0), {}, about, {}, record)


class Hub(BaseHTTPRequestHandler):
    """One model repository in memory, with the requests that HfFileSystem makes."""

    files: dict[str, bytes]
    commits: list[list[str]]

    def log_message(self, *args):
        pass

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def _missing(self, code="EntryNotFound"):
        self._send({"error": "not there"}, 404, X_Error_Code=code, X_Error_Message="not there")

    def _entry(self, path):
        if path in self.files:
            digest = hashlib.sha1(self.files[path]).hexdigest()
            return {"type": "file", "path": path, "size": len(self.files[path]), "oid": digest}
        return {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}

    def _is_there(self, path):
        return path in self.files or any(file.startswith(f"{path}/") for file in self.files)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if f"/{REPO}" not in path:
            return self._missing("RepoNotFound")
        rest = path.partition(REPO)[2]
        if rest in ("", "/revision/main"):
            return self._send({"id": REPO, "sha": "0" * 40})
        if rest.startswith("/tree/main"):
            folder = rest.removeprefix("/tree/main").strip("/")
            if folder and not self._is_there(folder):
                return self._missing()
            prefix = f"{folder}/" if folder else ""
            names = {prefix + file[len(prefix) :].partition("/")[0] for file in self.files if file.startswith(prefix)}
            return self._send([self._entry(name) for name in sorted(names)])
        if rest.startswith("/resolve/main/"):
            content = self.files.get(rest.removeprefix("/resolve/main/"))
            if content is None:
                return self._missing()
            if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
                about = f"bytes {first}-{last}/{len(content)}"
                return self._send(content[first : last + 1], 206, Content_Range=about, ETag='"x"')
            return self._send(content, ETag='"x"', X_Repo_Commit="0" * 40)
        return self._missing()

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):
        path, body = urlsplit(self.path).path, self._body()
        if path.endswith("/validate-yaml"):
            return self._send({"warnings": [], "errors": []})
        if path.endswith("/paths-info/main"):
            wanted = parse_qs(body.decode())["paths"] if not body.startswith(b"{") else json.loads(body)["paths"]
            return self._send([self._entry(name) for name in wanted if self._is_there(name)])
        if path.endswith("/preupload/main"):
            files = [file["path"] for file in json.loads(body)["files"]]
            return self._send(
                {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in files]}
            )
        if path.endswith("/commit/main"):
            lines = [json.loads(line) for line in body.decode().splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.commits.append([file["path"] for file in files])
            self.files.update({file["path"]: base64.b64decode(file["content"]) for file in files})
            address = f"http://127.0.0.1/{REPO}/commit/{'0' * 40}"
            return self._send({"success": True, "commitOid": "0" * 40, "commitUrl": address})
        return self._missing()


@pytest.fixture
def hub(monkeypatch):
    """A hub that is empty at the start; HfFileSystem speaks to it as to the real one."""
    handler = type("OneHub", (Hub,), {"files": {".gitattributes": b""}, "commits": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()
    HfFileSystem.clear_instance_cache()
    yield handler
    HfFileSystem.clear_instance_cache()
    close_session()
    server.shutdown()
    server.server_close()


def test_a_library_on_the_hub_is_made_listed_and_read(hub, backbone):
    place = f"hf://{REPO}/library"
    library = Library.create(place, delta_of(backbone).backbone)
    name = library.add(delta_of(backbone), category="feeling", results=(Result("tone", "test", "accuracy", 0.5),))
    library.write_readme()
    assert Library(place).names() == (name,)
    assert Library(place).card(name).category == "feeling"
    weights = Library(place).delta(name).weights
    assert all(torch.equal(x, weights[n]) for n, x in delta_of(backbone).weights.items())
    assert set(hub.files) >= {"library/library.json", "library/README.md", f"library/deltas/{name}/card.json"}


def test_the_card_is_uploaded_after_all_other_files_of_a_delta(hub, backbone):
    library = Library.create(f"hf://{REPO}", delta_of(backbone).backbone)
    library.add(delta_of(backbone))
    uploaded = [path for commit in hub.commits for path in commit]
    assert uploaded[-1].endswith("card.json")
    assert sum(path.endswith("card.json") for path in uploaded) == 1


def test_what_another_writer_adds_to_the_hub_is_seen_at_once(hub, backbone):
    place = f"hf://{REPO}"
    library = Library.create(place, delta_of(backbone).backbone)
    first = library.add(delta_of(backbone))
    assert library.names() == (first,)
    other = "tone" + first.removeprefix("mood")
    for path, content in list(hub.files.items()):
        if path.startswith(f"deltas/{first}/"):
            text = content.replace(b'"mood"', b'"tone"') if path.endswith("card.json") else content
            hub.files[path.replace(first, other)] = text
    assert library.names() == (first, other)


def test_a_single_delta_is_saved_to_the_hub_and_loaded(hub, backbone):
    delta_of(backbone).save(f"hf://{REPO}/one")
    assert str(dc.load_delta(f"hf://{REPO}/one").expression) == "lora(rank=2)"


def test_a_repository_that_does_not_exist_is_one_sentence(hub):
    with pytest.raises(BadInput, match="someone/other") as refused:
        Library("hf://someone/other").names()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("url", ["hf://someone/deltas", "hf://someone/deltas/one"])
def test_without_a_network_the_hub_is_refused_in_one_sentence(url, monkeypatch, backbone):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    HfFileSystem.clear_instance_cache()
    for act in (Library(url).names, lambda: delta_of(backbone).save(url), lambda: dc.load_delta(url)):
        with pytest.raises(BadInput) as refused:
            act()
        assert str(refused.value).startswith(("cannot read 'hf://", "cannot write 'hf://"))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("url", ["hf://someone", "hf://", "hf://someone/deltas@"])
def test_a_url_that_names_no_repository_is_one_sentence(url, hub, backbone):
    for act in (Library(url).names, lambda: delta_of(backbone).save(url), lambda: dc.load_delta(url)):
        with pytest.raises(BadInput, match="hf://") as refused:
            act()
        assert "\n" not in str(refused.value)


def test_a_folder_that_was_listed_before_the_network_failed_is_not_taken_for_empty(hub, backbone, monkeypatch):
    library = Library.create(f"hf://{REPO}", delta_of(backbone).backbone)
    library.add(delta_of(backbone))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    with pytest.raises(BadInput, match="cannot read 'hf://someone/deltas"):
        library.names()


# Model cards, as huggingface_hub reads them


def test_a_card_of_a_delta_is_valid_metadata_of_a_model(backbone, tmp_path):
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    results = (Result("tone", "test", "accuracy", 0.5), Result("mood", "val", "macro_f1", 0.75))
    name = library.add(delta_of(backbone), category="feeling", licence="MIT", results=results)
    data = ModelCard.load(tmp_path / "deltas" / name / "README.md").data
    assert (data.base_model, data.library_name) == (backbone.name, "deltacompose")
    assert {"deltacompose", "delta-tuning", "task:mood", "category:feeling"} <= set(data.tags)
    evaluated = {(r.dataset_name, r.dataset_split, r.metric_type): r.metric_value for r in data.eval_results}
    assert evaluated == {("tone", "test", "accuracy"): 0.5, ("mood", "val", "macro_f1"): 0.75}
    assert data.model_name == "lora(rank=2)"


def test_the_card_of_a_library_is_valid_metadata_of_a_model(backbone, tmp_path):
    library = Library.create(tmp_path, delta_of(backbone).backbone)
    library.add(delta_of(backbone))
    library.write_readme()
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.library_name) == (backbone.name, "deltacompose")
    assert "library-of-deltas" in data.tags


@pytest.mark.parametrize("text", ["a: b # c", "---", "x\n---\ny: 1", "'\"{}[]", "!!python/object:os.system"])
def test_texts_that_mean_something_in_yaml_stay_texts_in_the_metadata(text, backbone, tmp_path):
    library = Library.create(tmp_path, {"name": text, "fingerprint": backbone.fingerprint})
    delta = delta_of(backbone, text)
    name = library.add(delta, licence=text, category=text, results=(Result(text, "test", text, 0.5),))
    library.write_readme()
    data = ModelCard.load(tmp_path / "deltas" / name / "README.md").data
    line = " ".join(text.split())
    assert f"task:{line}" in data.tags
    assert data.license_name == line
    [result] = data.eval_results
    assert (result.dataset_name, result.metric_value) == (line, 0.5)
    assert ModelCard.load(tmp_path / "README.md").data.base_model == text
