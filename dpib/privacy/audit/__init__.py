"""Audits that catch a broken mechanism: each drives the vault's own code on made-up records.

Four layers, from exact to statistical. (S) the sensitivity: two neighbouring sets under the same noise, whose
difference is what one record can change. (N) the noise: a set of null records, whose release is noise and nothing else.
(C) canaries: records that own a coordinate each, whose participation in DP-SGD can be read off. (B) a black box:
many releases from two neighbouring sets, and the epsilon that their difference proves. No audit reads a sensitive
record, so none costs privacy.
"""
