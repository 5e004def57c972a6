"""The model directory on disk: model.onnx, tokenizer.json, config.json, manifest.json; written whole or not at all."""
import json
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import onnx

from . import VERSION
from .errors import ExportError
from .source import sha256

FORMAT_VERSION = 1


def claim(directory, force):
    """Refuses early what would fail late: an existing directory without --force, a missing or read-only parent."""
    directory = Path(directory)
    if directory.exists():
        if not directory.is_dir():
            raise ExportError(f"{directory} is a file; name a directory that is to be made")
        if not force:
            raise ExportError(f"{directory} exists; name another directory, or replace it with --force")
        if any(directory.iterdir()) and not (directory / "model.onnx").is_file():
            raise ExportError(f"{directory} is not empty and holds no model.onnx, so it is not a model directory; "
                              f"--force only replaces model directories")
    parent = directory.absolute().parent
    if not parent.is_dir():
        raise ExportError(f"{parent} does not exist; make it first: mkdir -p {parent}")
    if not os.access(parent, os.W_OK):
        raise ExportError(f"{parent} is not writable; choose another place")


def write(directory, source, model_bytes, manifest):
    """Writes the directory beside its final place and renames it. manifest lacks "files", which is filled in here."""
    directory = Path(directory).absolute()
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        (made / "model.onnx").write_bytes(model_bytes)
        (made / "tokenizer.json").write_text(source.pretrained.definition, encoding="utf-8")
        shutil.copyfile(source.folder / "config.json", made / "config.json")
        files = {n: {"sha256": sha256(made / n), "bytes": (made / n).stat().st_size}
                 for n in ("model.onnx", "tokenizer.json", "config.json")}
        order = ["format_version", "name", "task", "architecture", "layout", "precision", "max_tokens", "pad_token_id",
                 "truncation_side", "special_tokens", "own_special_tokens", "unknown_token", "files"]
        whole = {"format_version": FORMAT_VERSION, **manifest, "files": files}
        whole = {k: whole[k] for k in order if k in whole} | {k: v for k, v in whole.items() if k not in order}
        (made / "manifest.json").write_text(_layout(whole), encoding="utf-8")
        for f in made.iterdir():
            f.chmod(0o644)
        made.chmod(0o755)
        old = None
        if directory.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old.", dir=directory.parent))
            os.rename(directory, old / "model")
        os.rename(made, directory)
        if old:
            shutil.rmtree(old)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def exporter(model_bytes):
    """Who made the file, for the manifest."""
    opset = next(o.version for o in onnx.load_from_string(model_bytes).opset_import if o.domain in ("", "ai.onnx"))
    return {"name": "export_model.py", "version": VERSION, "onnx": version("onnx"),
            "onnxruntime": version("onnxruntime"), "opset": opset}


def _layout(manifest):
    """Indented JSON in which a golden text is one line."""
    golden = manifest["golden"]
    head = json.dumps({k: v for k, v in manifest.items() if k != "golden"}, indent=2, ensure_ascii=False)
    rows = ",\n".join("      " + json.dumps(t, ensure_ascii=False) for t in golden["texts"])
    return (f'{head[:-2]},\n  "golden": {{\n    "tolerance": {json.dumps(golden["tolerance"])},\n'
            f'    "texts": [\n{rows}\n    ]\n  }}\n}}\n')
