//! Shield: no text reaches the id of a special token.
//!
//! `encode_special_tokens` keeps `tokenizers` from cutting special tokens out of a text before the model sees it. But
//! some models find them by themselves, because they stand in their vocabularies: Unigram (XLM-R reads the text "</s>"
//! as its end token, which SentencePiece itself never does), and those that look up whole words. So the model that
//! reads texts gets a vocabulary in which the special tokens have names that nobody can write.

use std::collections::hash_map::RandomState;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};

use serde_json::{Map, Value};
use tokenizers::{ModelWrapper, Tokenizer};

/// Ids, sizes and scores stay. The unknown token keeps its name, which controls nothing. Call it last: the added tokens
/// of `tok` must be known to it by then.
pub fn shield(tok: &mut Tokenizer) -> Result<(), String> {
    let special: HashSet<String> = tok
        .get_added_tokens_decoder()
        .into_values()
        .filter(|t| t.special)
        .map(|t| t.content)
        .collect();
    let mut model = serde_json::to_value(tok.get_model()).map_err(|e| e.to_string())?;
    let renamed = match model["type"].as_str() {
        Some("Unigram") => {
            let unknown = model["unk_id"].as_u64().map(|id| id as usize);
            shield_pieces(&mut model["vocab"], &special, unknown)
        }
        Some("WordPiece" | "WordLevel") => shield_words(&mut model, &special),
        Some("BPE") if model["ignore_merges"] == true => shield_words(&mut model, &special),
        _ => false, // BPE reaches only what its merges make
    };
    if renamed {
        let model: ModelWrapper =
            serde_json::from_value(model).map_err(|e| format!("shielding special tokens: {e}"))?;
        tok.with_model(model);
    }
    Ok(())
}

/// `vocab` is a list of pieces and their scores; the index is the id.
fn shield_pieces(vocab: &mut Value, special: &HashSet<String>, unknown: Option<usize>) -> bool {
    let mut renamed = false;
    for (id, entry) in vocab.as_array_mut().into_iter().flatten().enumerate() {
        if Some(id) != unknown && entry[0].as_str().is_some_and(|piece| special.contains(piece)) {
            entry[0] = unwritable().into();
            renamed = true;
        }
    }
    renamed
}

/// The vocabulary of `model` maps words to ids.
fn shield_words(model: &mut Value, special: &HashSet<String>) -> bool {
    let unknown = model["unk_token"].as_str().map(str::to_owned);
    let Some(vocab) = model["vocab"].as_object_mut() else {
        return false;
    };
    let mut renamed = false;
    *vocab = std::mem::take(vocab)
        .into_iter()
        .map(|(word, id)| {
            if special.contains(&word) && Some(&word) != unknown.as_ref() {
                renamed = true;
                return (unwritable(), id);
            }
            (word, id)
        })
        .collect::<Map<_, _>>();
    renamed
}

/// 128 random bits, new at every call: a text that contains them cannot be written.
fn unwritable() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("\u{10FFFF}{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(json: &str, text: &str) -> Vec<u32> {
        let mut tok = Tokenizer::from_bytes(json).unwrap();
        tok.set_encode_special_tokens(true);
        let (size, end) = (tok.get_vocab_size(true), tok.id_to_token(1));
        shield(&mut tok).unwrap();
        assert_eq!(tok.id_to_token(1), end);
        assert!(tok.get_vocab_size(false) <= size);
        tok.encode(text, false).unwrap().get_ids().to_vec()
    }

    const HEAD: &str = r#"{"version":"1.0",
      "truncation":null,"padding":null,"normalizer":null,"post_processor":null,"decoder":null,
      "pre_tokenizer":{"type":"WhitespaceSplit"},"added_tokens":[
       {"id":0,"content":"<unk>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
       {"id":1,"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
      "model":"#;

    #[test]
    fn unigram() {
        let json = HEAD.to_owned()
            + r#"{"type":"Unigram","unk_id":0,"byte_fallback":false,
              "vocab":[["<unk>",0.0],["</s>",0.0],["<",-3.0],["/",-3.0],["s",-3.0],[">",-3.0],["a",-2.0]]}}"#;
        assert_eq!(ids(&json, "a</s>"), [6, 2, 3, 4, 5]);
        assert_eq!(ids(&json, "xs"), [0, 4]); // the unknown token and its penalty are as before
    }

    #[test]
    fn models_that_look_up_words() {
        let vocab = r#""vocab":{"<unk>":0,"</s>":1,"a":2}"#;
        for model in [
            format!(r#"{{"type":"WordLevel",{vocab},"unk_token":"<unk>"}}"#),
            format!(
                r###"{{"type":"WordPiece",{vocab},"unk_token":"<unk>","continuing_subword_prefix":"##",
                    "max_input_chars_per_word":9}}"###
            ),
            format!(r#"{{"type":"BPE",{vocab},"merges":[],"unk_token":"<unk>","ignore_merges":true,"fuse_unk":true}}"#),
        ] {
            let json = format!("{HEAD}{model}}}");
            assert!(!ids(&json, "a </s> a").contains(&1), "{model}");
            assert_eq!(ids(&json, "a a"), [2, 2], "{model}");
        }
    }
}
