"""Everything that uses Hydra: what was typed and the files in `configs/` become one checked configuration.

Nothing outside knows Hydra or OmegaConf. The typed shape of a configuration lives in `schema/`.
"""
