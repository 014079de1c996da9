package key_test

import (
	"fmt"
	"time"

	"bennu.example/key"
)

// Keys sort by time, so that a list of messages needs no other order.
func Example() {
	first, second := key.New(), key.New()
	fmt.Println(len(first), first < second)
	// Output: 26 true
}

// A Generator may have a clock of its own, such as the server's in a client.
func ExampleGenerator() {
	g := key.Generator{Now: func() time.Time { return time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC) }}
	k := g.New()
	at, err := key.Time(k)
	fmt.Println(k[:10], at.UTC(), err)
	// Output: 01m8kjt9g0 2026-11-29 12:00:00 +0000 UTC <nil>
}

// Time rejects a text that is not a key.
func ExampleTime() {
	_, err := key.Time("room:lobby")
	fmt.Println(err)
	// Output: key: invalid key: 10 bytes
}
