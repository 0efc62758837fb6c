"""Knowledge about timm and torchvision: feature names, and any of their models as a trunk."""
