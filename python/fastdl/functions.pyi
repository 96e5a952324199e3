"""Public names of fastdl.functions, with out=. Written by tools/make_function_stubs.py."""

from collections.abc import Sequence
from fastdl.dtypes import finfo as finfo
from fastdl.dtypes import iinfo as iinfo
from fastdl.ops.activation import celu as celu
from fastdl.ops.activation import celu_ as celu_
from fastdl.ops.activation import prelu as prelu
from fastdl.ops.activation import relu as relu
from fastdl.ops.activation import relu_ as relu_
from fastdl.ops.activation import rrelu as rrelu
from fastdl.ops.activation import rrelu_ as rrelu_
from fastdl.ops.activation import selu as selu
from fastdl.ops.activation import selu_ as selu_
from fastdl.ops.activation import threshold_ as threshold_
from fastdl.ops.arithmetic import add as add
from fastdl.ops.arithmetic import atan2 as arctan2
from fastdl.ops.arithmetic import atan2 as atan2
from fastdl.ops.arithmetic import div as div
from fastdl.ops.arithmetic import div as divide
from fastdl.ops.arithmetic import div as true_divide
from fastdl.ops.arithmetic import floor_divide as floor_divide
from fastdl.ops.arithmetic import fmod as fmod
from fastdl.ops.arithmetic import hypot as hypot
from fastdl.ops.arithmetic import maximum as maximum
from fastdl.ops.arithmetic import minimum as minimum
from fastdl.ops.arithmetic import mul as mul
from fastdl.ops.arithmetic import mul as multiply
from fastdl.ops.arithmetic import pow as pow
from fastdl.ops.arithmetic import remainder as remainder
from fastdl.ops.arithmetic import rsub as rsub
from fastdl.ops.arithmetic import sub as sub
from fastdl.ops.arithmetic import sub as subtract
from fastdl.ops.calculus import cumulative_trapezoid as cumulative_trapezoid
from fastdl.ops.calculus import gradient as gradient
from fastdl.ops.calculus import trapezoid as trapezoid
from fastdl.ops.calculus import trapezoid as trapz
from fastdl.ops.compare import allclose as allclose
from fastdl.ops.compare import bitwise_and as bitwise_and
from fastdl.ops.compare import bitwise_left_shift as bitwise_left_shift
from fastdl.ops.compare import bitwise_not as bitwise_not
from fastdl.ops.compare import bitwise_or as bitwise_or
from fastdl.ops.compare import bitwise_right_shift as bitwise_right_shift
from fastdl.ops.compare import bitwise_xor as bitwise_xor
from fastdl.ops.compare import eq as eq
from fastdl.ops.compare import equal as equal
from fastdl.ops.compare import ge as ge
from fastdl.ops.compare import ge as greater_equal
from fastdl.ops.compare import gt as greater
from fastdl.ops.compare import gt as gt
from fastdl.ops.compare import isclose as isclose
from fastdl.ops.compare import isfinite as isfinite
from fastdl.ops.compare import isinf as isinf
from fastdl.ops.compare import isnan as isnan
from fastdl.ops.compare import le as le
from fastdl.ops.compare import le as less_equal
from fastdl.ops.compare import logical_and as logical_and
from fastdl.ops.compare import logical_not as logical_not
from fastdl.ops.compare import logical_or as logical_or
from fastdl.ops.compare import logical_xor as logical_xor
from fastdl.ops.compare import lt as less
from fastdl.ops.compare import lt as lt
from fastdl.ops.compare import ne as ne
from fastdl.ops.compare import ne as not_equal
from fastdl.ops.complex import conj as conj
from fastdl.ops.complex import imag as imag
from fastdl.ops.complex import is_complex as is_complex
from fastdl.ops.complex import real as real
from fastdl.ops.complex import resolve_conj as resolve_conj
from fastdl.ops.complex import resolve_conj as resolve_neg
from fastdl.ops.complex import sgn as sgn
from fastdl.ops.complex import view_as_complex as view_as_complex
from fastdl.ops.complex import view_as_real as view_as_real
from fastdl.ops.conv import conv_algorithm as conv_algorithm
from fastdl.ops.counting import argwhere as argwhere
from fastdl.ops.counting import bincount as bincount
from fastdl.ops.diagonals import diag_embed as diag_embed
from fastdl.ops.diagonals import diagflat as diagflat
from fastdl.ops.diagonals import tril as tril
from fastdl.ops.diagonals import triu as triu
from fastdl.ops.distance import cosine_similarity as cosine_similarity
from fastdl.ops.distance import pairwise_distance as pairwise_distance
from fastdl.ops.dropout import alpha_dropout as alpha_dropout
from fastdl.ops.dropout import dropout as dropout
from fastdl.ops.dropout import feature_alpha_dropout as feature_alpha_dropout
from fastdl.ops.dropout import feature_dropout as feature_dropout
from fastdl.ops.einsum import einsum as einsum
from fastdl.ops.elementwise import addcdiv as addcdiv
from fastdl.ops.elementwise import addcmul as addcmul
from fastdl.ops.elementwise import clamp as clamp
from fastdl.ops.elementwise import clamp as clip
from fastdl.ops.elementwise import clamp_max as clamp_max
from fastdl.ops.elementwise import clamp_min as clamp_min
from fastdl.ops.elementwise import lerp as lerp
from fastdl.ops.extreme import MinMax
from fastdl.ops.extreme import ValuesIndices
from fastdl.ops.gather import index_add as index_add
from fastdl.ops.gather import index_copy as index_copy
from fastdl.ops.gather import index_fill as index_fill
from fastdl.ops.gather import scatter as scatter
from fastdl.ops.gather import scatter_add as scatter_add
from fastdl.ops.histogram import Histogram
from fastdl.ops.histogram import histogramdd as histogramdd
from fastdl.ops.join import cartesian_prod as cartesian_prod
from fastdl.ops.join import meshgrid as meshgrid
from fastdl.ops.low_rank import pca_lowrank as pca_lowrank
from fastdl.ops.low_rank import svd_lowrank as svd_lowrank
from fastdl.ops.masks import masked_fill as masked_fill
from fastdl.ops.masks import masked_scatter as masked_scatter
from fastdl.ops.order import argsort as argsort
from fastdl.ops.order import unique as unique
from fastdl.ops.parts import chunk as chunk
from fastdl.ops.parts import chunk as unsafe_chunk
from fastdl.ops.parts import diagonal as diagonal
from fastdl.ops.parts import dsplit as dsplit
from fastdl.ops.parts import hsplit as hsplit
from fastdl.ops.parts import narrow as narrow
from fastdl.ops.parts import select_dim as select
from fastdl.ops.parts import split as split
from fastdl.ops.parts import split as split_with_sizes
from fastdl.ops.parts import split as unsafe_split
from fastdl.ops.parts import tensor_split as tensor_split
from fastdl.ops.parts import unbind as unbind
from fastdl.ops.parts import vsplit as vsplit
from fastdl.ops.placement import as_strided_scatter as as_strided_scatter
from fastdl.ops.placement import diagonal_scatter as diagonal_scatter
from fastdl.ops.placement import index_put as index_put
from fastdl.ops.placement import put as put
from fastdl.ops.placement import select_scatter as select_scatter
from fastdl.ops.placement import unravel_index as unravel_index
from fastdl.ops.products import block_diag as block_diag
from fastdl.ops.products import combinations as combinations
from fastdl.ops.products import vander as vander
from fastdl.ops.promotion import promote_types as promote_types
from fastdl.ops.promotion import result_type as result_type
from fastdl.ops.query import can_cast as can_cast
from fastdl.ops.query import is_conj as is_conj
from fastdl.ops.query import is_conj as is_inference
from fastdl.ops.query import is_conj as is_neg
from fastdl.ops.query import is_floating_point as is_floating_point
from fastdl.ops.query import is_nonzero as is_nonzero
from fastdl.ops.query import is_same_size as is_same_size
from fastdl.ops.query import is_signed as is_signed
from fastdl.ops.query import is_tensor as is_tensor
from fastdl.ops.query import numel as numel
from fastdl.ops.query import typename as typename
from fastdl.ops.rare import empty_permuted as empty_permuted
from fastdl.ops.rare import resize_as_ as resize_as_
from fastdl.ops.rearrange import flip as flip
from fastdl.ops.rearrange import fliplr as fliplr
from fastdl.ops.rearrange import flipud as flipud
from fastdl.ops.rearrange import repeat_interleave as repeat_interleave
from fastdl.ops.rearrange import roll as roll
from fastdl.ops.rearrange import rot90 as rot90
from fastdl.ops.rearrange import tile as tile
from fastdl.ops.reduce import count_nonzero as count_nonzero
from fastdl.ops.sampling import binomial as binomial
from fastdl.ops.sampling import poisson as poisson
from fastdl.ops.sampling import rand as rand
from fastdl.ops.sampling import rand_like as rand_like
from fastdl.ops.sampling import randint as randint
from fastdl.ops.sampling import randint_like as randint_like
from fastdl.ops.sampling import randn as randn
from fastdl.ops.sampling import randn_like as randn_like
from fastdl.ops.sampling import randperm as randperm
from fastdl.ops.segments import segment_reduce as segment_reduce
from fastdl.ops.special import MantissaExponent
from fastdl.ops.special import isreal as isreal
from fastdl.ops.special import nan_to_num as nan_to_num
from fastdl.ops.spectrogram import istft as istft
from fastdl.ops.spectrogram import stft as stft
from fastdl.ops.statistics import corrcoef as corrcoef
from fastdl.ops.statistics import cov as cov
from fastdl.ops.statistics import dist as dist
from fastdl.ops.statistics import trace as trace
from fastdl.ops.statistics import unique_consecutive as unique_consecutive
from fastdl.ops.strided import as_strided as as_strided
from fastdl.ops.unary import abs as abs
from fastdl.ops.unary import abs as absolute
from fastdl.ops.unary import acos as acos
from fastdl.ops.unary import acos as arccos
from fastdl.ops.unary import acosh as acosh
from fastdl.ops.unary import acosh as arccosh
from fastdl.ops.unary import asin as arcsin
from fastdl.ops.unary import asin as asin
from fastdl.ops.unary import asinh as arcsinh
from fastdl.ops.unary import asinh as asinh
from fastdl.ops.unary import atan as arctan
from fastdl.ops.unary import atan as atan
from fastdl.ops.unary import atanh as arctanh
from fastdl.ops.unary import atanh as atanh
from fastdl.ops.unary import ceil as ceil
from fastdl.ops.unary import cos as cos
from fastdl.ops.unary import cosh as cosh
from fastdl.ops.unary import erf as erf
from fastdl.ops.unary import exp as exp
from fastdl.ops.unary import expm1 as expm1
from fastdl.ops.unary import floor as floor
from fastdl.ops.unary import log as log
from fastdl.ops.unary import log10 as log10
from fastdl.ops.unary import log1p as log1p
from fastdl.ops.unary import log2 as log2
from fastdl.ops.unary import neg as neg
from fastdl.ops.unary import neg as negative
from fastdl.ops.unary import positive as positive
from fastdl.ops.unary import reciprocal as reciprocal
from fastdl.ops.unary import round as round
from fastdl.ops.unary import rsqrt as rsqrt
from fastdl.ops.unary import sign as sign
from fastdl.ops.unary import sin as sin
from fastdl.ops.unary import sinh as sinh
from fastdl.ops.unary import sqrt as sqrt
from fastdl.ops.unary import square as square
from fastdl.ops.unary import tan as tan
from fastdl.ops.unary import trunc as fix
from fastdl.ops.unary import trunc as trunc
from fastdl.ops.views import adjoint as adjoint
from fastdl.ops.views import atleast_1d as atleast_1d
from fastdl.ops.views import atleast_2d as atleast_2d
from fastdl.ops.views import atleast_3d as atleast_3d
from fastdl.ops.views import broadcast_shapes as broadcast_shapes
from fastdl.ops.views import broadcast_tensors as broadcast_tensors
from fastdl.ops.views import broadcast_to as broadcast_to
from fastdl.ops.views import clone as clone
from fastdl.ops.views import flatten as flatten
from fastdl.ops.views import movedim as moveaxis
from fastdl.ops.views import movedim as movedim
from fastdl.ops.views import permute as permute
from fastdl.ops.views import ravel as ravel
from fastdl.ops.views import reshape as reshape
from fastdl.ops.views import squeeze as squeeze
from fastdl.ops.views import t as t
from fastdl.ops.views import transpose as swapaxes
from fastdl.ops.views import transpose as swapdims
from fastdl.ops.views import transpose as transpose
from fastdl.ops.views import unflatten as unflatten
from fastdl.ops.views import unsqueeze as unsqueeze
from fastdl.random import Generator
from fastdl.tensor import Tensor
from typing import Any

__all__ = [
    'abs',
    'absolute',
    'acos',
    'acosh',
    'add',
    'addbmm',
    'addcdiv',
    'addcmul',
    'addmm',
    'addmv',
    'addr',
    'adjoint',
    'all',
    'allclose',
    'alpha_dropout',
    'amax',
    'amin',
    'aminmax',
    'angle',
    'any',
    'arccos',
    'arccosh',
    'arcsin',
    'arcsinh',
    'arctan',
    'arctan2',
    'arctanh',
    'argmax',
    'argmin',
    'argsort',
    'argwhere',
    'as_strided',
    'as_strided_copy',
    'as_strided_scatter',
    'asin',
    'asinh',
    'atan',
    'atan2',
    'atanh',
    'atleast_1d',
    'atleast_2d',
    'atleast_3d',
    'baddbmm',
    'bernoulli',
    'bincount',
    'binomial',
    'bitwise_and',
    'bitwise_left_shift',
    'bitwise_not',
    'bitwise_or',
    'bitwise_right_shift',
    'bitwise_xor',
    'block_diag',
    'bmm',
    'broadcast_shapes',
    'broadcast_tensors',
    'broadcast_to',
    'bucketize',
    'can_cast',
    'cartesian_prod',
    'cat',
    'ceil',
    'celu',
    'celu_',
    'chain_matmul',
    'chunk',
    'clamp',
    'clamp_max',
    'clamp_min',
    'clip',
    'clone',
    'column_stack',
    'combinations',
    'complex',
    'concat',
    'concatenate',
    'conj',
    'conj_physical',
    'conv_algorithm',
    'copysign',
    'corrcoef',
    'cos',
    'cosh',
    'cosine_similarity',
    'count_nonzero',
    'cov',
    'cross',
    'cummax',
    'cummin',
    'cumprod',
    'cumsum',
    'cumulative_trapezoid',
    'deg2rad',
    'detach_copy',
    'diag',
    'diag_embed',
    'diagflat',
    'diagonal',
    'diagonal_copy',
    'diagonal_scatter',
    'diff',
    'digamma',
    'dist',
    'div',
    'divide',
    'dot',
    'dropout',
    'dsplit',
    'dstack',
    'einsum',
    'empty_permuted',
    'eq',
    'equal',
    'erf',
    'erfc',
    'erfinv',
    'exp',
    'exp2',
    'expand_copy',
    'expm1',
    'feature_alpha_dropout',
    'feature_dropout',
    'finfo',
    'fix',
    'flatten',
    'flip',
    'fliplr',
    'flipud',
    'float_power',
    'floor',
    'floor_divide',
    'fmax',
    'fmin',
    'fmod',
    'frac',
    'frexp',
    'gather',
    'gcd',
    'ge',
    'ger',
    'gradient',
    'greater',
    'greater_equal',
    'gt',
    'hardshrink',
    'heaviside',
    'histc',
    'histogram',
    'histogramdd',
    'hsplit',
    'hstack',
    'hypot',
    'i0',
    'igamma',
    'igammac',
    'iinfo',
    'imag',
    'index_add',
    'index_copy',
    'index_fill',
    'index_put',
    'index_reduce',
    'index_select',
    'inner',
    'is_complex',
    'is_conj',
    'is_floating_point',
    'is_inference',
    'is_neg',
    'is_nonzero',
    'is_same_size',
    'is_signed',
    'is_tensor',
    'isclose',
    'isfinite',
    'isin',
    'isinf',
    'isnan',
    'isneginf',
    'isposinf',
    'isreal',
    'istft',
    'kron',
    'kthvalue',
    'lcm',
    'ldexp',
    'le',
    'lerp',
    'less',
    'less_equal',
    'lgamma',
    'log',
    'log10',
    'log1p',
    'log2',
    'log_softmax',
    'logaddexp',
    'logaddexp2',
    'logcumsumexp',
    'logical_and',
    'logical_not',
    'logical_or',
    'logical_xor',
    'logit',
    'logsumexp',
    'lt',
    'masked_fill',
    'masked_scatter',
    'masked_select',
    'matmul',
    'max',
    'maximum',
    'mean',
    'median',
    'meshgrid',
    'min',
    'minimum',
    'mm',
    'mode',
    'moveaxis',
    'movedim',
    'msort',
    'mul',
    'multinomial',
    'multiply',
    'mv',
    'mvlgamma',
    'nan_to_num',
    'nanmean',
    'nanmedian',
    'nanquantile',
    'nansum',
    'narrow',
    'narrow_copy',
    'ne',
    'neg',
    'negative',
    'nextafter',
    'nonzero',
    'nonzero_static',
    'normal',
    'not_equal',
    'numel',
    'outer',
    'pairwise_distance',
    'pca_lowrank',
    'permute',
    'permute_copy',
    'poisson',
    'polar',
    'polygamma',
    'positive',
    'pow',
    'prelu',
    'prod',
    'promote_types',
    'put',
    'quantile',
    'rad2deg',
    'rand',
    'rand_like',
    'randint',
    'randint_like',
    'randn',
    'randn_like',
    'randperm',
    'range',
    'ravel',
    'real',
    'reciprocal',
    'relu',
    'relu_',
    'remainder',
    'renorm',
    'repeat_interleave',
    'reshape',
    'resize_as_',
    'resolve_conj',
    'resolve_neg',
    'result_type',
    'roll',
    'rot90',
    'round',
    'row_stack',
    'rrelu',
    'rrelu_',
    'rsqrt',
    'rsub',
    'scatter',
    'scatter_add',
    'scatter_reduce',
    'searchsorted',
    'segment_reduce',
    'select',
    'select_copy',
    'select_scatter',
    'selu',
    'selu_',
    'sgn',
    'sigmoid',
    'sign',
    'signbit',
    'sin',
    'sinc',
    'sinh',
    'slice_copy',
    'slice_scatter',
    'softmax',
    'sort',
    'split',
    'split_copy',
    'split_with_sizes',
    'split_with_sizes_copy',
    'sqrt',
    'square',
    'squeeze',
    'squeeze_copy',
    'stack',
    'std',
    'std_mean',
    'stft',
    'sub',
    'subtract',
    'sum',
    'svd_lowrank',
    'swapaxes',
    'swapdims',
    't',
    't_copy',
    'take',
    'take_along_dim',
    'tan',
    'tanh',
    'tensor_split',
    'tensordot',
    'threshold',
    'threshold_',
    'tile',
    'topk',
    'trace',
    'transpose',
    'transpose_copy',
    'trapezoid',
    'trapz',
    'tril',
    'triu',
    'true_divide',
    'trunc',
    'typename',
    'unbind',
    'unbind_copy',
    'unflatten',
    'unfold_copy',
    'unique',
    'unique_consecutive',
    'unravel_index',
    'unsafe_chunk',
    'unsafe_split',
    'unsqueeze',
    'unsqueeze_copy',
    'vander',
    'var',
    'var_mean',
    'vdot',
    'view_as_complex',
    'view_as_complex_copy',
    'view_as_real',
    'view_as_real_copy',
    'view_copy',
    'vsplit',
    'vstack',
    'where',
    'xlogy',
]

def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = ..., alpha: float = ..., out: Tensor | None = ...) -> Tensor: ...
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = ..., alpha: float = ..., out: Tensor | None = ...) -> Tensor: ...
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = ..., alpha: float = ..., out: Tensor | None = ...) -> Tensor: ...
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = ..., alpha: float = ..., out: Tensor | None = ...) -> Tensor: ...
def all(input: Tensor, dim: Any = ..., keepdim: bool = ..., *, out: Tensor | None = ..., **names: Any) -> Tensor: ...
def amax(input: Tensor, dim: Any = ..., keepdim: bool = ..., *, out: Tensor | None = ..., **names: Any) -> Tensor: ...
def amin(input: Tensor, dim: Any = ..., keepdim: bool = ..., *, out: Tensor | None = ..., **names: Any) -> Tensor: ...
def aminmax(input: Tensor, *, dim: int | None = ..., keepdim: bool = ..., out: Sequence[Tensor] | None = ...) -> MinMax: ...
def angle(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def any(input: Tensor, dim: Any = ..., keepdim: bool = ..., *, out: Tensor | None = ..., **names: Any) -> Tensor: ...
def argmax(input: Tensor, dim: int | None = ..., keepdim: bool = ..., *, out: Tensor | None = ..., **names: Any) -> Tensor: ...
def argmin(input: Tensor, dim: int | None = ..., keepdim: bool = ..., *, out: Tensor | None = ..., **names: Any) -> Tensor: ...
def as_strided_copy(input: Tensor, size: Any, stride: Any, storage_offset: int | None = ..., *, out: Tensor | None = ...) -> Tensor: ...
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = ..., alpha: float = ..., out: Tensor | None = ...) -> Tensor: ...
def bernoulli(input: Tensor, p: float | None = ..., *, generator: Generator | None = ..., out: Tensor | None = ...) -> Tensor: ...
def bmm(input: Tensor, mat2: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = ..., right: bool = ..., out: Tensor | None = ...) -> Tensor: ...
def cat(tensors: Sequence[Tensor], dim: int = ..., *, out: Tensor | None = ..., **names: Any) -> Tensor: ...
def chain_matmul(*matrices: Any, out: Tensor | None = ...) -> Tensor: ...
def column_stack(tensors: Sequence[Tensor], *, out: Tensor | None = ...) -> Tensor: ...
def complex(real: Tensor, imag: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def concat(tensors: Sequence[Tensor], dim: int = ..., *, out: Tensor | None = ..., **names: Any) -> Tensor: ...
def concatenate(tensors: Sequence[Tensor], dim: int = ..., *, out: Tensor | None = ..., **names: Any) -> Tensor: ...
def conj_physical(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def copysign(input: Tensor, other: Any, *, out: Tensor | None = ...) -> Tensor: ...
def cross(input: Tensor, other: Tensor, dim: int | None = ..., *, out: Tensor | None = ...) -> Tensor: ...
def cummax(input: Tensor, dim: int, *, out: Sequence[Tensor] | None = ...) -> ValuesIndices: ...
def cummin(input: Tensor, dim: int, *, out: Sequence[Tensor] | None = ...) -> ValuesIndices: ...
def cumprod(input: Tensor, dim: Any = ..., *, dtype: Any = ..., axis: Any = ..., out: Tensor | None = ...) -> Tensor: ...
def cumsum(input: Tensor, dim: Any = ..., *, dtype: Any = ..., axis: Any = ..., out: Tensor | None = ...) -> Tensor: ...
def deg2rad(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def detach_copy(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def diag(input: Tensor, diagonal: int = ..., *, out: Tensor | None = ...) -> Tensor: ...
def diagonal_copy(input: Tensor, offset: int = ..., dim1: int = ..., dim2: int = ..., *, out: Tensor | None = ...) -> Tensor: ...
def diff(input: Tensor, n: int = ..., dim: int = ..., prepend: Tensor | None = ..., append: Tensor | None = ..., *, out: Tensor | None = ...) -> Tensor: ...
def digamma(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def dot(input: Tensor, tensor: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def dstack(tensors: Sequence[Tensor], *, out: Tensor | None = ...) -> Tensor: ...
def erfc(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def erfinv(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def exp2(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def expand_copy(input: Tensor, *sizes: Any, size: Any = ..., out: Tensor | None = ...) -> Tensor: ...
def float_power(input: Any, exponent: Any, *, out: Tensor | None = ...) -> Tensor: ...
def fmax(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def fmin(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def frac(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def frexp(input: Tensor, *, out: Sequence[Tensor] | None = ...) -> MantissaExponent: ...
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = ..., out: Tensor | None = ...) -> Tensor: ...
def gcd(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def ger(input: Tensor, vec2: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def hardshrink(input: Tensor, lambd: float = ..., *, out: Tensor | None = ...) -> Tensor: ...
def heaviside(input: Tensor, values: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def histc(input: Tensor, bins: int = ..., min: float = ..., max: float = ..., *, out: Tensor | None = ...) -> Tensor: ...
def histogram(input: Tensor, bins: Any = ..., *, range: Any = ..., weight: Tensor | None = ..., density: bool = ..., out: Sequence[Tensor] | None = ...) -> Histogram: ...
def hstack(tensors: Sequence[Tensor], *, out: Tensor | None = ...) -> Tensor: ...
def i0(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def igamma(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def igammac(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def index_reduce(input: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = ..., out: Tensor | None = ...) -> Tensor: ...
def index_select(input: Tensor, dim: int, index: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def inner(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def isin(elements: Any, test_elements: Any, *, assume_unique: bool = ..., invert: bool = ..., out: Tensor | None = ...) -> Tensor: ...
def isneginf(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def isposinf(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def kron(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def kthvalue(input: Tensor, k: int, dim: int = ..., keepdim: bool = ..., *, out: Sequence[Tensor] | None = ...) -> ValuesIndices: ...
def lcm(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def ldexp(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def lgamma(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def log_softmax(input: Tensor, dim: int, dtype: Any = ..., *, out: Tensor | None = ...) -> Tensor: ...
def logaddexp(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def logaddexp2(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def logcumsumexp(input: Tensor, dim: int, *, out: Tensor | None = ...) -> Tensor: ...
def logit(input: Tensor, eps: float | None = ..., *, out: Tensor | None = ...) -> Tensor: ...
def logsumexp(input: Tensor, dim: Any, keepdim: bool = ..., *, out: Tensor | None = ...) -> Tensor: ...
def masked_select(input: Tensor, mask: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def matmul(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def max(input: Tensor, dim: Any = ..., keepdim: bool = ..., *, other: Any = ..., out: Any = ..., **names: Any) -> Any: ...
def mean(input: Tensor, dim: Any = ..., keepdim: bool = ..., *, dtype: Any = ..., out: Tensor | None = ..., **names: Any) -> Tensor: ...
def median(input: Tensor, dim: int | None = ..., keepdim: bool = ..., *, out: Any = ..., **names: Any) -> Any: ...
def min(input: Tensor, dim: Any = ..., keepdim: bool = ..., *, other: Any = ..., out: Any = ..., **names: Any) -> Any: ...
def mm(input: Tensor, mat2: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def mode(input: Tensor, dim: int = ..., keepdim: bool = ..., *, out: Sequence[Tensor] | None = ...) -> ValuesIndices: ...
def msort(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def multinomial(input: Tensor, num_samples: int, replacement: bool = ..., *, generator: Generator | None = ..., out: Tensor | None = ...) -> Tensor: ...
def mv(input: Tensor, vec: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def mvlgamma(input: Tensor, p: int, *, out: Tensor | None = ...) -> Tensor: ...
def nanmean(input: Tensor, dim: Any = ..., keepdim: bool = ..., *, dtype: Any = ..., out: Tensor | None = ...) -> Tensor: ...
def nanmedian(input: Tensor, dim: int | None = ..., keepdim: bool = ..., *, out: Any = ...) -> Any: ...
def nanquantile(input: Tensor, q: Any, dim: int | None = ..., keepdim: bool = ..., *, interpolation: str = ..., out: Tensor | None = ...) -> Tensor: ...
def nansum(input: Tensor, dim: Any = ..., keepdim: bool = ..., *, dtype: Any = ..., out: Tensor | None = ...) -> Tensor: ...
def narrow_copy(input: Tensor, dim: int, start: Any, length: int, *, out: Tensor | None = ...) -> Tensor: ...
def nextafter(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def nonzero(input: Tensor, *, as_tuple: bool = ..., out: Any = ...) -> Any: ...
def nonzero_static(input: Tensor, *, size: int, fill_value: int = ..., out: Tensor | None = ...) -> Tensor: ...
def normal(mean: Any, std: Any = ..., size: Any = ..., *, generator: Generator | None = ..., dtype: Any = ..., device: Any = ..., requires_grad: bool = ..., out: Tensor | None = ..., **named: Any) -> Tensor: ...
def outer(input: Tensor, vec2: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def permute_copy(input: Tensor, *axes_in_order: Any, dims: Any = ..., out: Tensor | None = ...) -> Tensor: ...
def polar(abs: Tensor, angle: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def polygamma(n: int, input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def prod(input: Tensor, dim: Any = ..., keepdim: bool = ..., *, dtype: Any = ..., out: Tensor | None = ..., **names: Any) -> Tensor: ...
def quantile(input: Tensor, q: Any, dim: int | None = ..., keepdim: bool = ..., *, interpolation: str = ..., out: Tensor | None = ...) -> Tensor: ...
def rad2deg(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def range(start: Any = ..., end: Any = ..., step: Any = ..., *, dtype: Any = ..., device: Any = ..., requires_grad: bool = ..., out: Tensor | None = ...) -> Tensor: ...
def renorm(input: Tensor, p: float, dim: int, maxnorm: float, *, out: Tensor | None = ...) -> Tensor: ...
def row_stack(tensors: Sequence[Tensor], *, out: Tensor | None = ...) -> Tensor: ...
def scatter_reduce(input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = ..., out: Tensor | None = ...) -> Tensor: ...
def searchsorted(sorted_sequence: Tensor, input: Any, *, out_int32: bool = ..., right: bool = ..., side: str | None = ..., sorter: Tensor | None = ..., out: Tensor | None = ...) -> Tensor: ...
def select_copy(input: Tensor, dim: int, index: int, *, out: Tensor | None = ...) -> Tensor: ...
def sigmoid(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def signbit(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def sinc(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def slice_copy(input: Tensor, dim: int = ..., start: int | None = ..., end: int | None = ..., step: int = ..., *, out: Tensor | None = ...) -> Tensor: ...
def slice_scatter(input: Tensor, src: Tensor, dim: int = ..., start: int | None = ..., end: int | None = ..., step: int = ..., *, out: Tensor | None = ...) -> Tensor: ...
def softmax(input: Tensor, dim: int, dtype: Any = ..., *, out: Tensor | None = ...) -> Tensor: ...
def sort(input: Tensor, dim: int = ..., descending: bool = ..., stable: bool = ..., *, out: Sequence[Tensor] | None = ..., **names: Any) -> ValuesIndices: ...
def split_copy(input: Tensor, split_size_or_sections: Any, dim: int = ..., *, out: Sequence[Tensor] | None = ...) -> tuple[Tensor, ...]: ...
def split_with_sizes_copy(input: Tensor, split_size_or_sections: Any, dim: int = ..., *, out: Sequence[Tensor] | None = ...) -> tuple[Tensor, ...]: ...
def squeeze_copy(input: Tensor, *dims: Any, dim: Any = ..., out: Tensor | None = ...) -> Tensor: ...
def stack(tensors: Sequence[Tensor], dim: int = ..., *, out: Tensor | None = ..., **names: Any) -> Tensor: ...
def std(input: Tensor, dim: Any = ..., unbiased: bool | None = ..., keepdim: bool = ..., *, correction: Any = ..., out: Tensor | None = ..., **names: Any) -> Tensor: ...
def std_mean(input: Tensor, dim: Any = ..., unbiased: bool | None = ..., keepdim: bool = ..., *, correction: Any = ..., out: Sequence[Tensor] | None = ..., **names: Any) -> tuple[Tensor, Tensor]: ...
def sum(input: Tensor, dim: Any = ..., keepdim: bool = ..., *, dtype: Any = ..., out: Tensor | None = ..., **names: Any) -> Tensor: ...
def t_copy(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def take(input: Tensor, index: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = ..., *, out: Tensor | None = ...) -> Tensor: ...
def tanh(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def tensordot(a: Tensor, b: Tensor, dims: Any = ..., *, out: Tensor | None = ...) -> Tensor: ...
def threshold(input: Tensor, threshold: float, value: float, inplace: bool = ..., *, out: Tensor | None = ...) -> Tensor: ...
def topk(input: Tensor, k: int, dim: int = ..., largest: bool = ..., sorted: bool = ..., *, out: Sequence[Tensor] | None = ..., **names: Any) -> ValuesIndices: ...
def transpose_copy(input: Tensor, dim0: int, dim1: int, *, out: Tensor | None = ...) -> Tensor: ...
def unbind_copy(input: Tensor, dim: int = ..., *, out: Sequence[Tensor] | None = ...) -> tuple[Tensor, ...]: ...
def unfold_copy(input: Tensor, dimension: int, size: int, step: int, *, out: Tensor | None = ...) -> Tensor: ...
def unsqueeze_copy(input: Tensor, dim: int, *, out: Tensor | None = ...) -> Tensor: ...
def var(input: Tensor, dim: Any = ..., unbiased: bool | None = ..., keepdim: bool = ..., *, correction: Any = ..., out: Tensor | None = ..., **names: Any) -> Tensor: ...
def var_mean(input: Tensor, dim: Any = ..., unbiased: bool | None = ..., keepdim: bool = ..., *, correction: Any = ..., out: Sequence[Tensor] | None = ..., **names: Any) -> tuple[Tensor, Tensor]: ...
def vdot(input: Tensor, other: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def view_as_complex_copy(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def view_as_real_copy(input: Tensor, *, out: Tensor | None = ...) -> Tensor: ...
def view_copy(input: Tensor, *size: Any, out: Tensor | None = ..., **options: Any) -> Tensor: ...
def vstack(tensors: Sequence[Tensor], *, out: Tensor | None = ...) -> Tensor: ...
def where(condition: Tensor, input: Any = ..., other: Any = ..., *, out: Any = ...) -> Any: ...
def xlogy(input: Any, other: Any, *, out: Tensor | None = ...) -> Tensor: ...
