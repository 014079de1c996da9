// Package logging makes the loggers that other packages of this module take as their Logger.
//
// These packages log through a [zerolog.Logger]. Nil means [Default], and zerolog.Nop is silent. A
// program that uses log/slog passes the result of [FromSlog]:
//
//	socket.Config{Logger: logging.FromSlog(slog.Default())}
package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/console"
)

// Default returns a logger that writes warnings and errors to standard error, as text. A nil Logger
// in this module means this one.
func Default() *zerolog.Logger {
	l := zerolog.New(console.Writer(os.Stderr, time.RFC3339)).Level(zerolog.WarnLevel).With().Timestamp().Logger()
	return &l
}

// FromSlog returns a logger that passes all messages on to l, with their level and fields. An
// object becomes a group. Whether l is enabled for a level is checked for each message, so that a
// slog.LevelVar has effect.
//
// A zerolog.Logger holds its fields as encoded JSON, so each message that l is enabled for is
// decoded again. Messages are too rare for this to matter: this package's users log faults and
// refusals, at a bounded rate.
func FromSlog(l *slog.Logger) *zerolog.Logger {
	z := zerolog.New(slogWriter{l.Handler()}).Level(zerolog.TraceLevel)
	return &z
}

// slogWriter is a zerolog.LevelWriter.
type slogWriter struct{ handler slog.Handler }

func (w slogWriter) Write(p []byte) (int, error) { return w.WriteLevel(zerolog.NoLevel, p) }

func (w slogWriter) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	ctx := context.Background()
	to := slogLevel(level)
	if !w.handler.Enabled(ctx, to) {
		return len(p), nil
	}
	record := slog.NewRecord(time.Now(), to, "", 0)
	fields, err := decodeObject(p)
	if err != nil { // zerolog was built with another encoding, or a field has malformed JSON
		record.Message = string(bytes.TrimSpace(p))
		return len(p), w.handler.Handle(ctx, record)
	}
	for _, f := range fields {
		switch f.Key {
		case zerolog.LevelFieldName, zerolog.TimestampFieldName: // the record has them
		case zerolog.MessageFieldName:
			record.Message = f.Value.String()
		default:
			record.AddAttrs(f)
		}
	}
	return len(p), w.handler.Handle(ctx, record)
}

// slogLevel returns the level of package slog for one of zerolog. Levels that slog has no name for
// are four above or below the next one, as is usual there.
func slogLevel(level zerolog.Level) slog.Level {
	switch {
	case level == zerolog.NoLevel:
		return slog.LevelInfo
	case level <= zerolog.TraceLevel:
		return slog.LevelDebug - 4
	}
	return map[zerolog.Level]slog.Level{
		zerolog.DebugLevel: slog.LevelDebug,
		zerolog.InfoLevel:  slog.LevelInfo,
		zerolog.WarnLevel:  slog.LevelWarn,
		zerolog.ErrorLevel: slog.LevelError,
		zerolog.FatalLevel: slog.LevelError + 4,
		zerolog.PanicLevel: slog.LevelError + 8,
	}[level]
}

// decodeObject decodes a JSON object. It keeps the order of its members.
func decodeObject(p []byte) ([]slog.Attr, error) {
	d := json.NewDecoder(bytes.NewReader(p))
	d.UseNumber()
	v, err := decodeValue(d)
	if err != nil {
		return nil, err
	}
	if v.Kind() != slog.KindGroup {
		return nil, fmt.Errorf("logging: want an object, got %.40q", p)
	}
	return v.Group(), nil
}

// decodeValue decodes the next value. An object becomes a group.
func decodeValue(d *json.Decoder) (slog.Value, error) {
	token, err := d.Token()
	if err != nil {
		return slog.Value{}, err
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '[' {
			return decodeArray(d)
		}
		return decodeGroup(d)
	case json.Number:
		return numberValue(t), nil
	}
	return slog.AnyValue(token), nil
}

func decodeGroup(d *json.Decoder) (slog.Value, error) {
	members := []slog.Attr{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return slog.Value{}, err
		}
		v, err := decodeValue(d)
		if err != nil {
			return slog.Value{}, err
		}
		members = append(members, slog.Attr{Key: fmt.Sprint(key), Value: v})
	}
	_, err := d.Token() // the end of the object
	return slog.GroupValue(members...), err
}

// decodeArray decodes what follows "[". Handlers encode the elements by themselves, so they get
// plain values and not slog's.
func decodeArray(d *json.Decoder) (slog.Value, error) {
	list := []any{}
	for d.More() {
		var v any
		if err := d.Decode(&v); err != nil {
			return slog.Value{}, err
		}
		list = append(list, v)
	}
	_, err := d.Token() // the end of the array
	return slog.AnyValue(list), err
}

// numberValue returns a number as an integer if it is one, and as text if nothing holds it.
func numberValue(n json.Number) slog.Value {
	if i, err := n.Int64(); err == nil {
		return slog.Int64Value(i)
	}
	if u, err := strconv.ParseUint(n.String(), 10, 64); err == nil {
		return slog.Uint64Value(u)
	}
	if f, err := n.Float64(); err == nil {
		return slog.Float64Value(f)
	}
	return slog.StringValue(n.String())
}
