"""What SQL functions run on executors: queries embedded there, and hits asked of the service in the driver."""
