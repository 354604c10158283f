"""Views: augmentations of a whole batch on its device, equal to torchvision's."""

from pnp.views.views import Views

__all__ = ["Views"]
