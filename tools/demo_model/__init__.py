"""The demo model: a world of everyday things, its pictures, training and export.

`things` says what there is, `scenes` lays it out, `questions` asks about it and holds the words,
`textures` and `drawing` make pictures; `world` joins them into held-out items. `batches` is what a
training step sees, `network` the models, `train` trains them, `export` writes the folder that
ships, `evaluate` measures it.
"""
