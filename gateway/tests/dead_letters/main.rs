//! Dead letters from outside: the commands of the real binary, the control socket of a gateway's
//! parts, and copies in a mock Kafka cluster.

mod command;
mod control;
mod copies;
mod fixture;
