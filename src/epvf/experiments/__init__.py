"""The paper's figures: which runs they are made of, running them, and drawing them."""
