"""Sample-to-sample transforms: range filters, augmentation, object sampling."""
