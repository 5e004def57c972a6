#!/usr/bin/env bash
# Makes everything that the race needs under build/race: models, texts, reference labels, and the peers that this
# machine can build. What cannot be built is named with the reason (build/race/NAME.skipped), and the race goes on
# without it.
#   RACE_MIX          short or long: reference labels for these texts too
#                     (make race RACE_MIX=short RACE='-mix short -out FILE')
#   RACE_CHECKPOINT   folder of the checkpoint sentiment-minilm, whose sums are in bench/race/checkpoint.sha256;
#                     default: what models/sentiment holds, unpacked
# Package registries are all that is downloaded from. A step that is done is not done again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=build/race
mkdir -p $out/models $out/source $out/texts $out/bin $out/log
python=$(scripts/venv.sh)
eval "$(scripts/native.sh env)"

say() { echo "race: $*" >&2; }

# peer NAME STAMPED-FILES... -- COMMAND: runs the command once for these files; a failure is noted, not fatal.
peer() {
	local name=$1 stamp=; shift
	local files=()
	while [[ $1 != -- ]]; do files+=("$1"); shift; done
	shift
	stamp=$(sha256sum "${files[@]}" | sha256sum | cut -c1-16)
	[[ -e $out/$name.stamp && $(<"$out/$name.stamp") == "$stamp" ]] && return 0
	rm -f "$out/$name.skipped" "$out/$name.stamp"
	say "building $name"
	if "$@" >"$out/log/$name" 2>&1; then
		echo "$stamp" >"$out/$name.stamp"
	else
		echo "not built here: $(tail -n 3 "$out/log/$name" | tr '\n' ' ' | cut -c1-300)" >"$out/$name.skipped"
		say "$name cannot be built on this machine, the race goes on without it; the whole log is in $out/log/$name"
		tail -n 5 "$out/log/$name" >&2
	fi
}

need() { command -v "$1" >/dev/null || { echo "$1 is not installed; $2"; return 1; }; }

python_peer() { # NAME [MORE PACKAGES]
	local name=$1; shift
	rm -rf "${out:?}/$name"
	python3 -m venv "$out/$name" && "$out/$name/bin/pip" install --disable-pip-version-check --no-input -q \
		-r "bench/peers/$name/requirements.txt" "$@"
}

go_peer() { # NAME TAGS
	(cd "bench/peers/$1" && GOFLAGS=-mod=readonly go build -trimpath -tags "$2" -o "../../../$out/bin/$1" .)
}

java_peer() {
	need mvn "apt-get install maven" && need java "apt-get install openjdk-17-jre-headless" || return 1
	mvn -q -B -f bench/peers/kafka-streams/pom.xml package "-Drace.build=$PWD/$out/kafka-streams"
}

hugot_peer() {
	mkdir -p $out/onnxruntime-so && ln -sf "$(realpath "$SLUICE_ONNXRUNTIME")" $out/onnxruntime-so/libonnxruntime.so &&
		CGO_LDFLAGS="${CGO_LDFLAGS:-} -Wl,--wrap=tokenizers_encode" go_peer hugot ORT
}

plain_export() {
	[[ ! -e $out/transformers.skipped ]] || { cat $out/transformers.skipped; return 1; }
	$out/transformers/bin/python bench/race/plain.py $out/source/sentiment-768 $out/models/sentiment-768
}

# --- weights, texts, our models: without these there is no race

# checkpoint: the small classifier that is widened. RACE_CHECKPOINT names the original's folder; without it, what
# models/sentiment holds is unpacked: the same shape, and the original's answers up to rounding.
checkpoint() {
	if [[ -z ${RACE_CHECKPOINT:-} ]]; then
		echo $out/source/sentiment
		[[ -e $out/source/sentiment/model.safetensors ]] ||
			"$python" bench/race/unpack.py models/sentiment $out/source/sentiment
		return
	fi
	local sums=$PWD/bench/race/checkpoint.sha256
	if ! (cd "$RACE_CHECKPOINT" && sha256sum --quiet --check "$sums") >&2; then
		say "RACE_CHECKPOINT=$RACE_CHECKPOINT is not the checkpoint sentiment-minilm that $sums describes;" \
			"leave RACE_CHECKPOINT out, and the model is made of models/sentiment"
		return 1
	fi
	echo "$RACE_CHECKPOINT"
}

# The folder that the models were made of: another one, and they are made anew.
small=$(checkpoint)
if [[ ! -e $out/source/made-of || $(<$out/source/made-of) != "$small" ]]; then
	rm -rf $out/source/*-768 $out/models/*-768* $out/texts/*.reference.json $out/plain.stamp
	echo "$small" >$out/source/made-of
fi
if [[ ! -e $out/source/ner-768/model.safetensors ]]; then
	"$python" bench/race/widen.py "$small" $out/source/sentiment-768 --check
	"$python" bench/race/widen.py "$small" $out/source/ner-768 --task ner --layers 12
fi
for mix in mixed:20000:17 short:8000:18 long:3000:19 calibration:800:99; do
	IFS=: read -r name count seed <<<"$mix"
	[[ -e $out/texts/$name.jsonl ]] ||
		"$python" bench/race/texts.py --mix "${name/calibration/mixed}" --count "$count" --seed "$seed" \
			--out "$out/texts/$name.jsonl"
done

export_model() { # DIRECTORY SOURCE ARGUMENTS...
	local directory=$out/models/$1 source=$out/source/$2; shift 2
	[[ -e $directory/manifest.json ]] ||
		"$python" scripts/export_model.py "$source" "$directory" --precision int8 \
			--calibration $out/texts/calibration.jsonl --max-tokens 128 --license "see models/MODELS.md" "$@"
}
export_model sentiment-768-int8 sentiment-768
export_model sentiment-768-int8-padded sentiment-768 --layout padded
# no meaning, so there is nothing that agreement could say
export_model ner-768-int8 ner-768 --accept-agreement 0 --keep-fp32 none
for name in mixed ${RACE_MIX:-}; do
	[[ -e $out/texts/$name.reference.json ]] ||
		"$python" bench/race/reference.py $out/source/sentiment-768 $out/texts/$name.jsonl \
			$out/texts/$name.reference.json
done

# --- the peers

peer onnxruntime bench/peers/onnxruntime/requirements.txt -- python_peer onnxruntime
peer transformers bench/peers/transformers/requirements.txt -- python_peer transformers onnx==1.23.2 onnxruntime==1.32.0
peer plain bench/race/plain.py $out/source/sentiment-768/config.json -- plain_export
peer kafka-streams bench/peers/kafka-streams/pom.xml bench/peers/kafka-streams/src/main/java/peer/Peer.java -- java_peer
peer hugot bench/peers/hugot/go.mod bench/peers/hugot/main.go bench/peers/hugot/tokenizers.go -- hugot_peer
peer bento bench/peers/bento/go.mod bench/peers/bento/main.go -- go_peer bento ""
say "ready: $(ls $out/*.stamp | wc -l) steps built, $(ls $out/*.skipped 2>/dev/null | wc -l) skipped"
