"""Fill a ZenML store: ``python run.py`` with a ZenML from 0.43.0 on, completed, cached and failed runs."""

from churn.pipelines import facts_pipeline, publishing_pipeline, training_pipeline


def main():
    """Run every pipeline; one failure is wanted."""
    facts_pipeline()
    training_pipeline()
    training_pipeline()  # cached
    try:
        publishing_pipeline(broken=True)
    except (RuntimeError, ValueError) as error:  # which one depends on the release
        print(f"failed as wanted: {error}")
    publishing_pipeline()


if __name__ == "__main__":
    main()
