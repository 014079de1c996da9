// Package boltengine keeps the history of topics and shared objects in a file, so that clients
// recover what they missed even if the server was restarted in the meantime.
//
// It is for programs that run as one process and need no other service. The file is a bbolt
// database. Make an [Engine] with [New] and pass its History to pubsub.NewRecorded:
//
//	engine, err := boltengine.New(boltengine.Config{Path: "/var/lib/app/history.db"})
//	ps := pubsub.NewRecorded(engine.Adapter(), engine.History(), rules)
//
// The log accepts records while PubSub.Run runs. It can be read from New to Close. Call Close after
// Run has returned.
//
// # Guarantees
//
// A broadcast that returned nil is on the disk: it survives a crash of the process, of the system,
// and a loss of power. Appends that wait at the same time share one commit and one fsync. If the
// disk is full or fails, broadcasts return an error and nobody receives them. The log goes on when
// the disk does.
//
// With Config.NoSync a broadcast does not wait for the disk. The end of the process is then clean
// only if Close returned nil. After any other end the log starts empty and with a new epoch, so
// that clients learn that they cannot recover.
//
// # Shared objects
//
// [Engine.State] keeps the objects of package state in the same file:
//
//	objects := state.New(engine.State())
//	go objects.Run(ctx)
//
// A write is acknowledged, and other clients receive it, when it is on the disk. Writes that wait
// at the same time share one commit and one fsync. Objects are bounded by the disk only: give those
// that nobody removes a lifetime. Memory does not depend on the number of objects.
//
// # Once
//
// [Engine.Once] keeps the pushes that channel.Once has seen, so that the clients' outboxes may send
// them again after a restart of the server. They are in memory, and their replies in the file as
// well: at most 100,000, and 100 MiB. Replies that are recorded at the same time share one commit.
//
// # Clients
//
// [OpenClient] opens a file for Go clients, in which they keep what must survive a restart of their
// program: see package offline. It is another kind of file than that of an Engine.
//
// # The file
//
// Only one process can use the file. A second one fails at once, with [ErrInUse]. The file is made
// with permissions 0600. It does not shrink, but uses the space of removed records again. Memory
// does not depend on the number of topics and records.
//
// A topic without new records is removed after ten times its Keep.Age, but not within 24 hours of
// the removal of its last record. Positions in it become invalid then.
//
// Every record has a checksum. A damaged file is reported by New, or later as an error, and never
// panics. Remove a file that is damaged: the log starts empty, and clients start afresh. To check a
// file, New reads it as a whole, and parts of one that is larger than a gigabyte.
package boltengine
