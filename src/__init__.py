"""emergence-audit: replicate, audit and extend Lu et al. (ACL 2024)."""
