"""The systems under comparison that need no training but the target model's."""
