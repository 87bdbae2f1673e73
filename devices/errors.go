package devices

import (
	"errors"
	"fmt"
)

// What went wrong, for every layer. They are wrapped with what was tried; callers ask with errors.Is.
var (
	ErrNotFound     = errors.New("not found")
	ErrExists       = errors.New("already exists")
	ErrForbidden    = errors.New("forbidden")
	ErrUnauthorized = errors.New("not signed in")
	ErrInvalid      = errors.New("invalid")
	ErrStale        = errors.New("changed meanwhile")   // an update based on an older version
	ErrTooLarge     = errors.New("too large")           // a body or message over its limit
	ErrRate         = errors.New("over its rate")       // a device sends faster than it may
	ErrFull         = errors.New("storage is full")     // the spine takes no more: try again later
	ErrUnavailable  = errors.New("unavailable for now") // a part we need (Postgres, NATS) does not answer
)

// A FieldError is an ErrInvalid that names the field at fault, so that a form or an API answer can point at it.
type FieldError struct {
	Field  string // JSON name of the field
	Reason string // what is wrong and how to mend it, for a person
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }
func (e *FieldError) Unwrap() error { return ErrInvalid }

// Invalid returns a FieldError.
func Invalid(field, format string, args ...any) error {
	return &FieldError{Field: field, Reason: fmt.Sprintf(format, args...)}
}
