"""What a tools adapter learns from, drawn from several sources: ``mixing`` puts it together."""
