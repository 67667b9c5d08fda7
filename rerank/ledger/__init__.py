"""Every outcome on disk, so that nothing is asked twice and a killed run goes on."""
