! fastgdml for Fortran 2008: the functions of fastgdml.h, and what makes its strings Fortran's. Compile this file with
! your program: module files of one compiler are of no use to another. fastgdml.h describes arguments, units and errors.
!
! Arrays. The last index of C runs fastest, the first of Fortran. What C calls [n_geo][n_atoms][3] is r(3, n_atoms, n_geo)
! here: same memory, no copy. Virials [n_geo][3][3] are virial(3, 3, n_geo); they are symmetric.
!
! Lattice vectors are the columns of C's lattice [3][3]. In Fortran's order of memory that is the transpose: vectors are
! the ROWS of lattice(3, 3) here, lattice(k, :) is vector k. If yours are columns, cell(:, k), pass transpose(cell).
!
! Optional arrays are c_ptr: c_loc(array) of a target, or c_null_ptr for C's NULL.
module fastgdml
  use, intrinsic :: iso_c_binding
  implicit none
  public

  integer(c_int32_t), parameter :: FASTGDML_ABI_OF_MODULE = 1  ! to compare with fastgdml_abi_version()

  ! fastgdml_status
  integer(c_int), parameter :: FASTGDML_SUCCESS = 0
  integer(c_int), parameter :: FASTGDML_ERROR_ARGUMENT = 1
  integer(c_int), parameter :: FASTGDML_ERROR_FILE = 2
  integer(c_int), parameter :: FASTGDML_ERROR_FORMAT = 3
  integer(c_int), parameter :: FASTGDML_ERROR_MEMORY = 4
  integer(c_int), parameter :: FASTGDML_ERROR_GEOMETRY = 5
  integer(c_int), parameter :: FASTGDML_ERROR_UNIT = 6
  integer(c_int), parameter :: FASTGDML_ERROR_ENGINE = 7

  ! fastgdml_image_rule
  integer(c_int), parameter :: FASTGDML_IMAGE_ROUNDING = 0
  integer(c_int), parameter :: FASTGDML_IMAGE_MINIMUM = 1

  type, bind(C) :: fastgdml_arrays
    integer(c_int64_t) :: n_atoms = 0
    integer(c_int64_t) :: n_train = 0
    integer(c_int64_t) :: n_perms = 0
    type(c_ptr) :: atomic_numbers = c_null_ptr       ! integer(c_int32_t) (n_atoms)
    type(c_ptr) :: perms = c_null_ptr                ! integer(c_int32_t) (n_atoms, n_perms), from 0
    type(c_ptr) :: descriptors = c_null_ptr          ! real(c_double) (n_pairs, n_train)
    type(c_ptr) :: coefficients = c_null_ptr         ! real(c_double) (n_pairs, n_train)
    type(c_ptr) :: energy_coefficients = c_null_ptr  ! real(c_double) (n_train)
    real(c_double) :: sig = 0
    real(c_double) :: std = 0
    real(c_double) :: c = 0
    type(c_ptr) :: lattice = c_null_ptr              ! real(c_double) (3, 3), vectors as rows
    integer(c_int) :: image_rule = FASTGDML_IMAGE_ROUNDING
    type(c_ptr) :: energy_unit = c_null_ptr          ! characters that end with c_null_char
    type(c_ptr) :: length_unit = c_null_ptr
    type(c_ptr) :: weights = c_null_ptr              ! real(c_double) (n_pairs)
  end type fastgdml_arrays

  interface

    function fastgdml_abi_version() bind(C)
      import :: c_int32_t
      integer(c_int32_t) :: fastgdml_abi_version
    end function fastgdml_abi_version

    function fastgdml_version() bind(C)
      import :: c_ptr
      type(c_ptr) :: fastgdml_version
    end function fastgdml_version

    function fastgdml_last_error() bind(C)
      import :: c_ptr
      type(c_ptr) :: fastgdml_last_error
    end function fastgdml_last_error

    function fastgdml_model_load(path, out) bind(C)
      import :: c_char, c_int, c_ptr
      integer(c_int) :: fastgdml_model_load
      character(kind=c_char), intent(in) :: path(*)  ! ends with c_null_char
      type(c_ptr), intent(out) :: out
    end function fastgdml_model_load

    function fastgdml_model_from_arrays(arrays, out) bind(C)
      import :: c_int, c_ptr, fastgdml_arrays
      integer(c_int) :: fastgdml_model_from_arrays
      type(fastgdml_arrays), intent(in) :: arrays
      type(c_ptr), intent(out) :: out
    end function fastgdml_model_from_arrays

    subroutine fastgdml_model_free(model) bind(C)
      import :: c_ptr
      type(c_ptr), value :: model
    end subroutine fastgdml_model_free

    function fastgdml_model_n_atoms(model) bind(C)
      import :: c_int, c_ptr
      integer(c_int) :: fastgdml_model_n_atoms
      type(c_ptr), value :: model
    end function fastgdml_model_n_atoms

    function fastgdml_model_n_train(model) bind(C)
      import :: c_int64_t, c_ptr
      integer(c_int64_t) :: fastgdml_model_n_train
      type(c_ptr), value :: model
    end function fastgdml_model_n_train

    function fastgdml_model_n_perms(model) bind(C)
      import :: c_int64_t, c_ptr
      integer(c_int64_t) :: fastgdml_model_n_perms
      type(c_ptr), value :: model
    end function fastgdml_model_n_perms

    function fastgdml_model_n_std(model) bind(C)
      import :: c_int64_t, c_ptr
      integer(c_int64_t) :: fastgdml_model_n_std
      type(c_ptr), value :: model
    end function fastgdml_model_n_std

    function fastgdml_model_atomic_numbers(model) bind(C)
      import :: c_ptr
      type(c_ptr) :: fastgdml_model_atomic_numbers  ! integer(c_int32_t) (n_atoms)
      type(c_ptr), value :: model
    end function fastgdml_model_atomic_numbers

    function fastgdml_model_energy_unit(model) bind(C)
      import :: c_ptr
      type(c_ptr) :: fastgdml_model_energy_unit
      type(c_ptr), value :: model
    end function fastgdml_model_energy_unit

    function fastgdml_model_length_unit(model) bind(C)
      import :: c_ptr
      type(c_ptr) :: fastgdml_model_length_unit
      type(c_ptr), value :: model
    end function fastgdml_model_length_unit

    function fastgdml_model_is_periodic(model) bind(C)
      import :: c_int, c_ptr
      integer(c_int) :: fastgdml_model_is_periodic
      type(c_ptr), value :: model
    end function fastgdml_model_is_periodic

    function fastgdml_model_lattice(model, lattice) bind(C)
      import :: c_double, c_int, c_ptr
      integer(c_int) :: fastgdml_model_lattice
      type(c_ptr), value :: model
      real(c_double), intent(out) :: lattice(3, 3)   ! vectors as rows
    end function fastgdml_model_lattice

    function fastgdml_model_check_lattice(model, lattice) bind(C)
      import :: c_double, c_int, c_ptr
      integer(c_int) :: fastgdml_model_check_lattice
      type(c_ptr), value :: model
      real(c_double), intent(in) :: lattice(3, 3)    ! vectors as rows
    end function fastgdml_model_check_lattice

    function fastgdml_make_whole(model, n_geo, lattice, r) bind(C)
      import :: c_double, c_int, c_int64_t, c_ptr
      integer(c_int) :: fastgdml_make_whole
      type(c_ptr), value :: model
      integer(c_int64_t), value :: n_geo
      real(c_double), intent(in) :: lattice(3, 3)    ! vectors as rows
      real(c_double), intent(inout) :: r(*)          ! (3, n_atoms, n_geo)
    end function fastgdml_make_whole

    function fastgdml_predict(model, n_geo, r, lattice, energy, forces, virial, n_threads) bind(C)
      import :: c_double, c_int, c_int64_t, c_ptr
      integer(c_int) :: fastgdml_predict
      type(c_ptr), value :: model
      integer(c_int64_t), value :: n_geo
      real(c_double), intent(in) :: r(*)             ! (3, n_atoms, n_geo)
      type(c_ptr), value :: lattice                  ! (3, 3), vectors as rows, or c_null_ptr
      type(c_ptr), value :: energy                   ! (n_geo), or c_null_ptr
      type(c_ptr), value :: forces                   ! (3, n_atoms, n_geo), or c_null_ptr
      type(c_ptr), value :: virial                   ! (3, 3, n_geo), or c_null_ptr
      integer(c_int), value :: n_threads
    end function fastgdml_predict

    function fastgdml_predict_std(model, n_geo, r, lattice, energy, forces, virial, energy_std, force_std, n_threads) &
        bind(C)
      import :: c_double, c_int, c_int64_t, c_ptr
      integer(c_int) :: fastgdml_predict_std
      type(c_ptr), value :: model
      integer(c_int64_t), value :: n_geo
      real(c_double), intent(in) :: r(*)             ! (3, n_atoms, n_geo)
      type(c_ptr), value :: lattice                  ! (3, 3), vectors as rows, or c_null_ptr
      type(c_ptr), value :: energy                   ! (n_geo), or c_null_ptr
      type(c_ptr), value :: forces                   ! (3, n_atoms, n_geo), or c_null_ptr
      type(c_ptr), value :: virial                   ! (3, 3, n_geo), or c_null_ptr
      real(c_double), intent(out) :: energy_std(*)   ! (n_geo)
      real(c_double), intent(out) :: force_std(*)    ! (n_atoms, n_geo)
      integer(c_int), value :: n_threads
    end function fastgdml_predict_std

    function fastgdml_hessian(model, n_geo, r, lattice, energy, forces, hessian, n_threads) bind(C)
      import :: c_double, c_int, c_int64_t, c_ptr
      integer(c_int) :: fastgdml_hessian
      type(c_ptr), value :: model
      integer(c_int64_t), value :: n_geo
      real(c_double), intent(in) :: r(*)             ! (3, n_atoms, n_geo)
      type(c_ptr), value :: lattice                  ! (3, 3), vectors as rows, or c_null_ptr
      type(c_ptr), value :: energy                   ! (n_geo), or c_null_ptr
      type(c_ptr), value :: forces                   ! (3, n_atoms, n_geo), or c_null_ptr
      real(c_double), intent(out) :: hessian(*)      ! (3 n_atoms, 3 n_atoms, n_geo)
      integer(c_int), value :: n_threads
    end function fastgdml_hessian

    function fastgdml_energy_factor(from, to, factor) bind(C)
      import :: c_char, c_double, c_int
      integer(c_int) :: fastgdml_energy_factor
      character(kind=c_char), intent(in) :: from(*), to(*)  ! end with c_null_char
      real(c_double), intent(out) :: factor
    end function fastgdml_energy_factor

    function fastgdml_length_factor(from, to, factor) bind(C)
      import :: c_char, c_double, c_int
      integer(c_int) :: fastgdml_length_factor
      character(kind=c_char), intent(in) :: from(*), to(*)
      real(c_double), intent(out) :: factor
    end function fastgdml_length_factor

  end interface

contains

  ! Load a model file; blanks at the end of the name do not count. Returns a status.
  function load(path, model) result(status)
    character(*), intent(in) :: path
    type(c_ptr), intent(out) :: model
    integer(c_int) :: status
    status = fastgdml_model_load(trim(path)//c_null_char, model)
  end function load

  ! Text of the last failure in this thread.
  function last_error() result(string)
    character(:), allocatable :: string
    string = fortran_string(fastgdml_last_error())
  end function last_error

  ! A string of C, as the names of units are.
  function fortran_string(pointer) result(string)
    type(c_ptr), intent(in) :: pointer
    character(:), allocatable :: string
    character(kind=c_char), pointer :: characters(:)
    integer :: i, n
    call c_f_pointer(pointer, characters, [huge(n)])
    n = 0
    do while (characters(n + 1) /= c_null_char)
      n = n + 1
    end do
    allocate (character(n) :: string)
    do i = 1, n
      string(i:i) = characters(i)
    end do
  end function fortran_string

end module fastgdml
