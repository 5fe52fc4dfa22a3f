"""The border to Hydra: what was typed and what stands in `configs/` become one checked configuration.

Nothing outside knows Hydra or OmegaConf. The typed shape of a configuration lives in `schema/`.
"""
