//! Perplexity, choices, exact match and forgetting.
