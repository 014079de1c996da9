// Command gen writes the types of the poll for its page.
package main

import (
	"bennu.example/examples/typed/poll"
	"bennu.example/tsgen"
)

func main() { tsgen.Main(poll.New("").Routes()) }
