//! Text in, packed rows of tokens out.
