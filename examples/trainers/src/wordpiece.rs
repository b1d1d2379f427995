//! Words as tokens: the one vocabulary of captions, boxes, metadata and instances.
//!
//! ```text
//! text files, annotated pictures, scenes ─ corpus ─ train ─ WordPiece (tokenizer.json) ─ encode, decode
//!                        boxes, metadata, instances ─ sentences ─┘
//! ```
//! The recipe is 4M's (`train_wordpiece_tokenizer.py`, `fourm/utils/tokenizer/text_tokenizer.py`): 30,000 tokens, of which
//! the first are special tokens, sentinels, 4,000 values `v0=0` to `v3=999` and names of classes; text is cleaned, put in
//! lower case and split at spaces and punctuation as BERT's. The training itself, encoding and decoding are those of the
//! `tokenizers` crate.

mod check;
mod classes;
mod corpus;
mod options;
pub mod sentences;
mod special;
mod tokenizer;
mod train;

pub use check::{TextReport, texts};
pub use classes::{COCO, Classes};
pub use corpus::{Corpus, read, render};
pub use options::{Options, run};
pub use special::{BINS, EOS, KINDS, PAD, SENTINELS, SOS, UNK, parse_value, sentinel, value};
pub use tokenizer::WordPiece;
pub use train::{Recipe, train};

#[cfg(test)]
mod tests;
