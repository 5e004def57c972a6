package main

// github.com/daulet/tokenizers 1.27 links against a symbol that carries the version of its own Rust library, and takes
// the length of a result as size_t. Sluice's libtokenizers.a has the C functions of 1.24: a length of 32 bits, with
// padding behind it. The linker's --wrap (see bench/race/prepare.sh) puts the function below between the two; all else
// is the same on 64-bit little-endian machines.

/*
#include <stddef.h>
#include <stdint.h>

void tokenizers_version_1_26_0(void) {}

struct race_buffer {
	uint32_t *ids, *type_ids, *special_tokens_mask, *attention_mask;
	char **tokens;
	size_t *offsets;
	size_t len;
};

struct race_buffer __real_tokenizers_encode(void *tokenizer, const char *text, const void *options);

struct race_buffer __wrap_tokenizers_encode(void *tokenizer, const char *text, const void *options) {
	struct race_buffer b = __real_tokenizers_encode(tokenizer, text, options);
	b.len = (uint32_t)b.len;
	return b;
}
*/
import "C"
