"""Where flows go besides Kafka: each sink a consumer loop of its own, with a group of its own."""
