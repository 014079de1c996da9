// Package console formats log messages as text for people.
package console

import (
	"bytes"
	"io"

	"github.com/rs/zerolog"
)

// stackField is the field in which this module logs the stack of a panic.
const stackField = "stack"

// Writer returns a writer of log messages with times in this format. The stack of a panic is below
// its message.
func Writer(out io.Writer, timeFormat string) zerolog.ConsoleWriter {
	return zerolog.ConsoleWriter{
		Out:           out,
		NoColor:       true,
		TimeFormat:    timeFormat,
		FieldsExclude: []string{stackField},
		FormatExtra:   writeStack,
	}
}

// writeStack writes a stack. As a field it would be one long line.
func writeStack(fields map[string]any, to *bytes.Buffer) error {
	if stack, ok := fields[stackField].(string); ok {
		to.WriteByte('\n')
		to.WriteString(stack)
	}
	return nil
}
