//! Decoder-only language models: blocks, heads, generation.
