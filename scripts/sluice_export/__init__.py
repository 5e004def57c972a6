"""Export of Hugging Face text models to the model directories that the Sluice worker loads.

config.py     config.json with transformers' defaults
pretrained.py the tokenizer, as transformers builds it
source.py     what a checkpoint folder says: configuration, tensors, tokenizer; every check that needs no arithmetic
graph.py      the ONNX graph: padded or packed, fp32, fp16 or static int8
row.py        token ids with token types
feeds.py      token ids to the inputs of either layout, and sessions that run them
reference.py  the source model's own logits: transformers where installed, else numpy, sharing no code with graph.py
calibrate.py  activation ranges for static int8
textfile.py   text files of people: encodings, compression, line ends
labelled.py   texts with what is right about them: JSON lines, TSV, CSV, IOB2
evaluate.py   accuracy, entity F1, correlation, agreement
folder.py     the model directory on disk: manifest, hashes, written whole or not at all
other.py      architectures that graph.py does not know, through optimum
cli.py        the command line
"""

VERSION = "1"
