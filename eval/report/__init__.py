"""Pages for people: HTML, charts and tables of runs, benches and trainings."""
