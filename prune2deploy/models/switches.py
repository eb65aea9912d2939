"""Options of a configuration that change what `forward` returns or keeps, and no number."""

# What `forward` returns or keeps, and how it goes about it; the numbers are the same.
SWITCHES = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "use_cache": False,
    "chunk_size_feed_forward": 0,
}
