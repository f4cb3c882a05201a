"""Transfer learning for image classification that measures before it trains."""
