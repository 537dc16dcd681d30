//! Golden vectors and laws, for tests only.
