"""What the kit is measured against, one suite a file; `finetune-kit benchmark` runs them."""
