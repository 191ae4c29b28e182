//! rdkafka, wrapped: producer, delivery reports, error classes.
