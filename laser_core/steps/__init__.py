"""The paper's steps, one a file. None imports another; `pipeline` joins them."""
