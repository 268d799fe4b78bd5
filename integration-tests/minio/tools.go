//go:build tools

// Package tools names the program that the tests need, so that its version is pinned.
package tools

import _ "github.com/minio/minio"
