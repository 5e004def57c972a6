// Declarations of the functions that tokenize/hf/native adds to daulet/tokenizers' C interface. They mirror
// native/src/batch.rs and native/src/vocab.rs, where each is explained.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct slz_batch {
	const int32_t *ids;
	const uint8_t *type_ids;
	const uint32_t *offsets;
	const uint8_t *special;
	const uint32_t *row_end;
	const uint32_t *text_rows;
	const uint8_t *text_truncated;
	const uint32_t *text_error;
	const uint8_t *errors;
	uint32_t rows;
	void *owner;
};

struct slz_options {
	uint32_t max_len;
	uint32_t stride;
	bool windows;
	bool offsets;
	bool left;
	bool pairs;
};

struct slz_string {
	uint8_t *data;
	size_t len;
};

const char *tokenizers_version(void);
uint32_t slz_added_tokens(void *tok, bool pair);
void slz_encode_batch(void *tok, const uint8_t *text, const uint32_t *end, uint32_t n,
		      const struct slz_options *options, struct slz_batch *out);
void slz_free_batch(struct slz_batch *b);
struct slz_string slz_token(void *tok, uint32_t id);
struct slz_string slz_join(void *tok, const uint8_t *tokens, const uint32_t *end, uint32_t n);
void slz_free_string(struct slz_string s);
