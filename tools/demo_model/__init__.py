"""The demo model: a generated world, its trainer and its exporter.

`scenes` draws pictures, `questions` asks about them, `world` joins the two into held-out items.
`dataset` writes training views, `batches` turns them into tensors; `network` is the model,
`forward` and `attention` its training pass, `muon` and `trainer` what trains it, in the two stages
`vision_stage` and `whole_stage` that `train` runs. `export` writes the shipped folder, `evaluate`
measures it, `examples` paints the repository's example pictures.
"""
