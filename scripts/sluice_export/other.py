"""Architectures that graph.py does not know: through Hugging Face's optimum, which needs torch. Padded layout, fp32."""
import tempfile
from pathlib import Path

from .errors import ExportError

INSTALL = ("python3 -m venv .venv-optimum && .venv-optimum/bin/pip install "
           "'optimum-onnx[onnxruntime]==0.1.0' 'transformers>=4.57,<4.58' torch onnx")


def export(source, progress):
    """The bytes of optimum's model.onnx for a Source that is not built directly."""
    known = "BERT, DistilBERT, RoBERTa, XLM-RoBERTa, CamemBERT, data2vec-text, ERNIE and ELECTRA"
    try:
        from optimum.exporters.onnx import main_export
    except ImportError:
        raise ExportError(f"{source.architecture} is not built directly (only {known} are) and optimum, which exports "
                          f"others, is not installed; install it in an environment of its own and run this script "
                          f"there: {INSTALL}") from None
    progress(f"exporting {source.architecture} with optimum")
    with tempfile.TemporaryDirectory() as folder:
        try:
            main_export(str(source.folder), output=folder, task=source.task, device="cpu", do_validation=False)
        except Exception as e:
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise ExportError(f"optimum cannot export {source.architecture}: {reason}", code=1) from e
        if (Path(folder) / "model.onnx_data").exists():
            raise ExportError(f"{source.architecture} is larger than 2 GiB as ONNX; the worker loads models of "
                              f"one file only", code=1)
        return (Path(folder) / "model.onnx").read_bytes()
